# The sandbox image. Built by the program itself on first use, under a tag that is a hash of its inputs.
# BASE needs a Debian userland with Python 3.11 or newer; scripts/make-base makes one without a registry.
ARG BASE=python:3.12-slim-bookworm

FROM ${BASE} AS system

# ripgrep for grep, libseccomp for the filter, zstd for .zst. A base that has them already needs no network.
RUN { command -v rg && command -v zstd && ldconfig -p | grep libseccomp.so.2; } >/dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends ripgrep libseccomp2 zstd; }

# Nothing in here may gain privileges, whatever the base brought along.
RUN find / -xdev -perm /6000 -type f -exec chmod a-s {} + ; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb


# Python packages, in a stage of their own: of it, only /opt/rlm is in the image. The wheels come from the host.
FROM system AS packages
ENV PYTHONPATH=/pip PYTHONDONTWRITEBYTECODE=1 \
    PIP_DISABLE_PIP_VERSION_CHECK=1 PIP_ROOT_USER_ACTION=ignore PIP_NO_CACHE_DIR=1 PIP_NO_INPUT=1 \
    PIP_PROGRESS_BAR=off

COPY packages/own/ /packages/own/
RUN python3 -m zipfile -e /packages/own/pip-*.whl /pip \
    && python3 -m pip install --no-index --no-deps --require-hashes --find-links /packages/own \
        --no-compile --target /opt/rlm --requirement /packages/own/requirements.txt \
    && cd /opt/rlm && rm -rf pip pip-* bin \
    && find . -type d -name tests -prune -exec rm -rf {} + \
    && find . -name '*.pyi' -delete \
    && chmod -R a-s,a+rX,go-w . \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/rlm

# sandbox.packages. OFFLINE is empty, and the index settings are given, when something has to be built here.
# A package that both lists have is there already, and in the same version. Not every file of others compiles.
COPY packages/extra/ /packages/extra/
ARG OFFLINE=--no-index
ARG PIP_INDEX_URL
ARG PIP_EXTRA_INDEX_URL
ARG PIP_TRUSTED_HOST
ARG PIP_PROXY
RUN cd /packages/extra && [ -s requirements.txt ] || exit 0; \
    if [ -e ca.pem ]; then \
        export PIP_CERT=$PWD/ca.pem SSL_CERT_FILE=$PWD/ca.pem GIT_SSL_CAINFO=$PWD/ca.pem; \
    fi; \
    if grep -q git+ requirements.txt && ! command -v git >/dev/null; then \
        { apt-get update && apt-get install -y --no-install-recommends git ca-certificates; } \
            || { echo "ERROR: git is not in the base image and could not be installed"; exit 9; }; \
    fi; \
    { python3 -m pip install $OFFLINE --find-links /packages/own --find-links . --no-compile \
            --constraint constraints.txt --target /extra --requirement requirements.txt \
        && python3 -c 'import os, sys; \
                names = {name.partition(".")[0] for name in os.listdir("/extra")}; \
                hidden = names & (sys.stdlib_module_names | {"rlm", "sandbox"}); \
                sys.exit(f"ERROR: a package would hide the module {min(hidden)}" if hidden else 0)'; \
    } || exit 9; \
    rm -rf /extra/bin && chmod -R a-s,a+rX,go-w /extra \
    && { python3 -m compileall -q --invalidation-mode unchecked-hash -s /extra -p /opt/rlm /extra || true; } \
    && cp --recursive --no-clobber /extra/. /opt/rlm/



FROM system
COPY --from=packages /opt/rlm/ /opt/rlm/
COPY rlm/ /opt/rlm/rlm/
COPY sandbox/ /opt/rlm/sandbox/
RUN chmod -R a+rX,go-w /opt/rlm/rlm /opt/rlm/sandbox && mkdir -p /data \
    && python3 -m compileall -q --invalidation-mode unchecked-hash /opt/rlm/rlm /opt/rlm/sandbox

WORKDIR /opt/rlm
USER 65534:65534
ENTRYPOINT ["python3", "-E", "-s", "-m", "sandbox"]
