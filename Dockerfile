# The sandbox image. Built by the program itself on first use, under a tag that is a hash of its inputs.
# BASE needs a Debian userland with Python 3.11 or newer; scripts/make-base makes one without a registry.
ARG BASE=python:3.12-slim-bookworm
FROM ${BASE}

# ripgrep for grep, libseccomp for the filter, zstd for .zst. A base that has them already needs no network.
RUN { command -v rg && command -v zstd && ldconfig -p | grep libseccomp.so.2; } >/dev/null \
    || { apt-get update && apt-get install -y --no-install-recommends ripgrep libseccomp2 zstd; }

# Nothing in here may gain privileges, whatever the base brought along.
RUN find / -xdev -perm /6000 -type f -exec chmod a-s {} + ; \
    rm -rf /var/lib/apt/lists/* /var/cache/apt/archives/*.deb

# Pure Python packages of the host's own environment (dill), then our code. Root-owned, not writable.
COPY packages/ /opt/rlm/
COPY rlm/ /opt/rlm/rlm/
COPY sandbox/ /opt/rlm/sandbox/
RUN chmod -R a+rX,go-w /opt/rlm && mkdir -p /data && python3 -m compileall -q /opt/rlm

WORKDIR /opt/rlm
USER 65534:65534
ENTRYPOINT ["python3", "-E", "-s", "-m", "sandbox"]
