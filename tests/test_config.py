"""Settings: which layer wins, what older files mean, and what is refused."""

import json
import re
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from rlm.config import Config, Limits, PriceConfig, describe, load_config
from rlm.errors import ConfigError
from rlm.settings import KINDS, SHORT_NAMES

REPO = Path(__file__).parent.parent
SECRET = "sk-proj-abcdefghijklmnop1234"
OLDER = {
    "root_llm": {"model": "openai/gpt-5"},
    "sub_llm": {"model": "openai/gpt-5-mini"},
    "glm_coding": {
        "enabled": False,
        "api_base": "https://api.z.ai/api/coding/paas/v4",
        "root_model": "glm-4.6",
        "sub_model": "glm-4.5-air",
    },
    "memory_compaction": {"enabled": True},
}


@dataclass
class Answers:
    """A user at a terminal who always says the same; keeps what was asked."""

    answer: bool
    asked: list[str] = field(default_factory=list)

    def __call__(self, question: str) -> bool:
        self.asked.append(question)
        return self.answer


@dataclass
class Place:
    """A working folder and a user folder to load the settings of."""

    cwd: Path
    user: Path

    def project(self, tree: object) -> None:
        (self.cwd / "config.json").write_text(json.dumps(tree))

    def dotenv(self, text: str) -> None:
        (self.cwd / ".env").write_text(text)

    def personal(self, tree: object) -> None:
        (self.user / "config.json").write_text(json.dumps(tree))

    def load(
        self,
        *,
        environ: Mapping[str, str] | None = None,
        flags: Mapping[str, object] | None = None,
        config_file: Path | None = None,
        confirm: Callable[[str], bool] | None = None,
    ) -> Config:
        return load_config(
            cwd=self.cwd,
            config_file=config_file,
            environ=environ or {},
            flags=flags or {},
            confirm=confirm,
            user_dir=self.user,
        )

    def refused(self, **given: Mapping[str, object]) -> str:
        with pytest.raises(ConfigError) as caught:
            self.load(**given)  # type: ignore[arg-type]  # the tests give what load takes
        return f"{caught.value} {caught.value.hint}"


@pytest.fixture
def place(tmp_path: Path) -> Place:
    (tmp_path / "project").mkdir()
    (tmp_path / "user").mkdir()
    return Place(tmp_path / "project", tmp_path / "user")


def test_defaults_need_no_file(place: Place) -> None:
    config = place.load()
    assert (config.root.model, config.sub.model) == ("gpt-5", "gpt-5-mini")
    assert config.limits == Limits()
    assert config.sandbox.memory_bytes == 2 * 1024**3
    assert config.compaction
    assert config.sources["root_llm.model"] == "default"


def test_each_layer_wins_over_the_ones_below_and_is_remembered(place: Place) -> None:
    place.personal(
        {"limits": {"max_steps": 11, "parallel": 11, "max_depth": 2, "max_tokens": 11, "timeout_s": 11}}
    )
    place.project({"limits": {"max_steps": 12, "parallel": 12, "max_tokens": 12, "timeout_s": 12}})
    place.dotenv("RLM_MAX_STEPS=13\nRLM_PARALLEL=13\nRLM_TIMEOUT=13\n")
    config = place.load(
        environ={"RLM_MAX_STEPS": "14", "RLM_PARALLEL": "14"}, flags={"max_steps": 15, "max_cost": None}
    )
    limits, sources = config.limits, config.sources
    assert (limits.max_steps, sources["limits.max_steps"]) == (15, "flag --max-steps")
    assert (limits.parallel, sources["limits.parallel"]) == (14, "environment RLM_PARALLEL")
    assert (limits.timeout_s, sources["limits.timeout_s"]) == (13, ".env")
    assert (limits.max_tokens, sources["limits.max_tokens"]) == (12, "config.json")
    assert (limits.max_depth, sources["limits.max_depth"]) == (2, str(place.user / "config.json"))
    assert ("limits.max_cost_usd", "1.0", "default") in describe(config)


def test_caps_of_the_session_are_not_set_unless_given(place: Place) -> None:
    limits = place.load().limits
    assert (limits.session_cost_usd, limits.session_tokens, limits.max_tokens) == (None, None, None)
    limits = place.load(
        environ={
            "RLM_SESSION_COST": "2.5",
            "RLM_SESSION_TOKENS": "900",
            "RLM_SESSION_SUB_CALLS": "0",
            "RLM_SESSION_TIMEOUT": "60",
            "RLM_CALL_TIMEOUT": "5",
            "RLM_MAX_CHILDREN": "2",
        }
    ).limits
    assert (limits.session_cost_usd, limits.session_tokens, limits.session_sub_calls) == (2.5, 900, 0)
    assert (limits.session_timeout_s, limits.call_timeout_s, limits.max_children) == (60, 5, 2)
    assert "RLM_SESSION_TOKENS must be" in place.refused(environ={"RLM_SESSION_TOKENS": "0"})


def test_older_file_works_unchanged(place: Place) -> None:
    place.project(OLDER)
    config = place.load()
    assert (config.root.model, config.sub.model) == ("openai/gpt-5", "openai/gpt-5-mini")
    assert (config.root.api_base, config.compaction, config.warnings) == (None, True, ())


def test_older_file_with_glm_enabled_replaces_both_models_and_asks_nothing(place: Place) -> None:
    place.project(OLDER | {"glm_coding": {**OLDER["glm_coding"], "enabled": True}})  # type: ignore[dict-item]
    config = place.load(environ={"ZAI_API_KEY": "k"})
    assert (config.root.model, config.sub.model) == ("zai/glm-4.6", "zai/glm-4.5-air")
    assert config.root.api_base == config.sub.api_base == "https://api.z.ai/api/coding/paas/v4"
    assert config.root.api_key_env == "ZAI_API_KEY"
    assert config.sources["root_llm.model"] == "glm_coding, config.json"
    assert place.load(flags={"model": "gpt-5"}).root.api_base is None


def test_glm_enabled_with_an_empty_address_is_refused(place: Place) -> None:
    glm = {"enabled": False, "api_base": "", "root_model": "", "sub_model": ""}
    place.project({"glm_coding": glm})
    assert place.load().root.model == "gpt-5"
    place.project({"glm_coding": glm | {"enabled": True}})
    assert "glm_coding.api_base" in place.refused()


def test_shipped_example_is_valid_and_says_the_defaults() -> None:
    load = {"cwd": REPO / "docs", "environ": {}, "flags": {}, "confirm": None, "user_dir": REPO / "docs"}
    shipped = load_config(config_file=REPO / "config.json", **load)  # type: ignore[arg-type]
    plain = load_config(config_file=None, **load)  # type: ignore[arg-type]
    assert (shipped.root, shipped.sub, shipped.limits) == (plain.root, plain.sub, plain.limits)


@pytest.mark.parametrize(
    ("tree", "message"),
    [
        (
            {"limits": {"max_cost": 1}},
            r"config.json: limits.max_cost is not a setting. .*limits.max_cost_usd\?",
        ),
        ({"limit": {}, "allow": []}, r"limit is not a setting. .*limits\?"),
        ({"root_llm": {"modle": "x"}}, r"root_llm.modle .*root_llm.model\?"),
        ({"aliases": {"a": {"model": "x", "apibase": "y"}}}, r"aliases.a.apibase .*api_base\?"),
        ({"limits": 3}, "limits must be an object"),
        (
            {"root_llm": {"model": "m", "price": {"input_per_mtok": 1}}},
            "root_llm.price must .*output_per_mtok",
        ),
        (
            {"root_llm": {"price": {"input_per_mtok": 1, "output_per_mtok": -1}}},
            r"price.output_per_mtok must",
        ),
        ({"root_llm": {"params": {"base_url": "x"}}}, r"params.base_url is set by this program"),
        ({"root_llm": {"params": {"proxy": "http://evil.example"}}}, "params must not hold an address"),
        ({"root_llm": {"api_base": "http://localhost@evil.example"}}, "api_base must be an address"),
        ({"root_llm": {"api_base": "http://evil.example\\@localhost"}}, "api_base must be an address"),
        ({"root_llm": {"api_base": "https://a.example/?key=1"}}, "api_base must be an address"),
        ({"sandbox": {"packages": ["--index-url=x"]}}, r"packages\[0\] must be a package name"),
        ({"sandbox": {"runtime": "--privileged"}}, "runtime must be"),
        ({"aliases": {"a": {}}}, "aliases.a must be"),
        ({"aliases": {"": "gpt-5"}}, "aliases. must be"),
    ],
)
def test_what_is_not_understood_is_refused(place: Place, tree: object, message: str) -> None:
    place.project(tree)
    assert re.search(message, place.refused())


@pytest.mark.parametrize(
    "requirement",
    [
        "numpy",
        "zope.interface==7.2",
        "pandas[excel, parquet]>=2,<3",
        "pandas >= 2 , != 2.1.*",
        "foo (~=1.0)",
        "foo===1!2.0+local",
        "foo>=1; python_version < '3.13' and sys_platform == \"linux\"",
        "foo @ https://files.example:8443/foo-1-py3-none-any.whl",
        "foo[x]@git+https://git.example/a/foo.git@v1#egg=foo ; python_version > '3'",
        "git+https://git.example/a/foo@9f2c4d1e8b7a6f5e4d3c2b1a0f9e8d7c6b5a4f3e",
    ],
)
def test_a_requirement_of_pip_is_taken(place: Place, requirement: str) -> None:
    place.project({"sandbox": {"packages": [requirement]}})
    assert place.load(flags={"yes": True}).sandbox.packages == (requirement,)


def test_packages_that_a_found_file_wants_are_asked_about_once(place: Place) -> None:
    place.project({"sandbox": {"packages": ["numpy"]}})
    assert "installs numpy into the sandbox image" in place.refused()
    user = Answers(True)
    for _ in range(2):
        assert place.load(confirm=user).sandbox.packages == ("numpy",)
    assert len(user.asked) == 1


@pytest.mark.parametrize(
    "requirement",
    [
        "-r other.txt",
        "foo --hash=sha256:00",
        "foo @ https://files.example/foo.whl --index-url=x",
        "foo -r other.txt",
        "foo #comment",
        "./foo",
        "/foo",
        "~/foo",
        "dir/foo",
        "C:\\foo",
        "foo-1.0.whl",
        "foo.tar.gz[x]",
        "foo\nbar",
        "foo\n",
        "foo\n>=1",
        "foo @\nhttps://files.example/foo.whl",
        "foo; python_version > '3'\n-r other.txt",
        "foo @ file:///foo",
        "foo @ http://files.example/foo.whl",
        "foo @ https://user:word@files.example/foo.whl",
        "foo @ https://files.example/${OPENAI_API_KEY}",
        "git+ssh://git@git.example/foo",
        "git+file:///foo",
        "https://files.example/foo.whl",
        "foo bar",
        "foo==",
    ],
)
def test_what_is_no_requirement_of_a_package_is_refused(place: Place, requirement: str) -> None:
    place.project({"sandbox": {"packages": ["numpy", requirement]}})
    assert "sandbox.packages[1] must be a package name" in place.refused()


@pytest.mark.parametrize("key", [key for key in KINDS if not key.startswith("glm_coding.")])
@pytest.mark.parametrize("value", [None, "", [""], -1, {"x": 1}, "no such thing\0"])
def test_no_setting_takes_an_empty_or_senseless_value(place: Place, key: str, value: object) -> None:
    if key.endswith(".params") and isinstance(value, dict):
        value = "x"
    group, _, name = key.partition(".")
    place.project({group: {name: value} if name else value})
    assert key in place.refused()


@pytest.mark.parametrize("value", ["nan", "inf", "-1", "", "ten", "1e9"])
def test_no_variable_takes_a_senseless_number(place: Place, value: str) -> None:
    assert "RLM_MAX_COST must be a number" in place.refused(environ={"RLM_MAX_COST": value})


def test_packages_typed_as_text_are_parted_where_a_name_begins(place: Place) -> None:
    config = place.load(environ={"RLM_PACKAGES": "a>=1,<2, b[x,y]==3,c"})
    assert config.sandbox.packages == ("a>=1,<2", "b[x,y]==3", "c")


def test_every_setting_but_objects_and_glm_names_has_a_variable_and_is_documented() -> None:
    spelled = set(SHORT_NAMES.values())
    assert {key for key in KINDS if key not in spelled and not key.startswith("glm_coding.")} == {
        "root_llm.params",
        "root_llm.price",
        "sub_llm.params",
        "sub_llm.price",
    }
    page = (REPO / "docs" / "configuration.md").read_text()
    assert [name for name in SHORT_NAMES if f"`RLM_{name.upper()}`" not in page] == []
    assert [key for key in KINDS if key.startswith(("limits", "sandbox")) and f"`{key}`" not in page] == []


def test_syntax_error_tells_where(place: Place) -> None:
    (place.cwd / "config.json").write_text('{\n  "limits": {}, // mine\n}')
    assert "config.json, line 2, column 17" in place.refused()
    (place.cwd / "config.json").write_text('{"allow": [], "allow": ["/"]}')
    assert '"allow" stands in it twice' in place.refused()
    (place.cwd / "config.json").write_text('{"limits": {"max_cost_usd": NaN}}')
    assert "NaN is not a JSON number" in place.refused()


def test_a_named_file_that_is_missing_is_an_error(place: Place) -> None:
    assert "no.json cannot be read" in place.refused(config_file=place.cwd / "no.json")  # type: ignore[arg-type]


def test_another_programs_file_is_ignored_with_a_warning_but_not_a_mix(place: Place) -> None:
    place.project({"compilerOptions": {}})
    assert "was ignored" in place.load().warnings[0]
    place.project({"compilerOptions": {}, "limits": {}})
    assert "compilerOptions is not a setting" in place.refused()
    (place.cwd / "config.json").write_text('["a"]')
    assert "was ignored" in place.load().warnings[0]
    place.project({"limts": {}})
    assert "limts is not a setting. Did you mean limits" in place.refused()


@pytest.mark.parametrize(
    "tree",
    [
        {"root_llm": {"api_key": "anything"}},
        {"root_llm": {"api_key": None}},
        {"root_llm": {"model": SECRET}},
        {"root_llm": {"api_key_env": "A8f3kQ9zX2mW7pL4vB6n"}},
        {"root_llm": {"params": {"extra_headers": {"Authorization": "x"}}}},
        {"aliases": {"fast": {"model": "m", "api_key": "x"}}},
        {"sandbox": {"packages": [SECRET]}},
    ],
)
def test_a_key_in_a_file_is_refused_and_not_repeated(place: Place, tree: object) -> None:
    place.project(tree)
    message = place.refused()
    assert "looks like a key" in message and ".env" in message
    assert SECRET not in message


def test_ordinary_names_are_no_keys(place: Place) -> None:
    model = "bedrock/us.anthropic.claude-sonnet-4-5-20250929-v1:0"
    place.project(
        {"root_llm": {"model": model, "api_key_env": "MY_COMPANY_GATEWAY_KEY_2", "params": {"max_tokens": 9}}}
    )
    config = place.load()
    assert (config.root.model, config.root.api_key_env) == (model, "MY_COMPANY_GATEWAY_KEY_2")
    assert config.root.params == {"max_tokens": 9}


def test_dotenv_gives_keys_but_replaces_no_exported_one_and_no_address(place: Place) -> None:
    place.dotenv(
        f"OPENAI_API_KEY={SECRET}\nGROQ_API_KEY=from-file\nOPENAI_API_BASE=https://evil.example\nEMPTY_API_KEY=\n"
    )
    config = place.load(environ={"GROQ_API_KEY": "exported"})
    assert config.environ == {"OPENAI_API_KEY": SECRET, "GROQ_API_KEY": "exported"}
    assert SECRET not in repr(config) + repr(describe(config))


def test_a_variable_nearly_ours_is_refused_and_a_strangers_is_not(place: Place) -> None:
    assert "RLM_MAX_COST?" in place.refused(environ={"RLM_MAX_COST_USD": "1"})
    assert "RLM_SUB_MODEL?" in place.refused(environ={"RLM_SUBMODEL": "m"})
    place.load(environ={"RLM_DOCKER_WORKSPACE_DIR": "/tmp"})


def test_aliases_work_in_flags_and_files_and_for_a_later_change(place: Place) -> None:
    local = {"model": "openai/qwen", "api_base": "http://localhost:8000/v1/", "params": {"temperature": 0}}
    price = {"input_per_mtok": 1, "output_per_mtok": 2}
    place.project(
        {
            "aliases": {"fast": "openai/gpt-5-nano", "local": local | {"price": price}},
            "sub_llm": {"model": "fast"},
        }
    )
    config = place.load(flags={"model": "local"})
    assert config.sub.model == "openai/gpt-5-nano"
    assert (config.root.model, config.root.api_base) == ("openai/qwen", "http://localhost:8000/v1")
    assert config.root.price == PriceConfig(input_per_mtok=1, output_per_mtok=2)
    assert config.sources["root_llm.model"] == "flag --model, alias local"
    assert config.resolve("local") == config.root
    assert config.resolve("groq/other").model == "groq/other"


def test_address_and_price_do_not_outlive_the_model_they_were_given_for(place: Place) -> None:
    price = {"input_per_mtok": 1, "output_per_mtok": 2}
    place.personal({"root_llm": {"model": "openai/a", "api_base": "https://gateway.example", "price": price}})
    root = place.load(flags={"model": "anthropic/b"}).root
    assert (root.model, root.api_base, root.price) == ("anthropic/b", None, None)
    assert place.load(flags={"model": "openai/a"}).root.api_base == "https://gateway.example"
    kept = place.load(flags={"model": "openai/b"}, environ={"RLM_API_BASE": "http://127.0.0.1:1"}).root
    assert kept.api_base == "http://127.0.0.1:1"


GLM = {"enabled": True, "root_model": "glm-4.6", "sub_model": "glm-4.6"}
FOREIGN = {"root_llm": {"model": "openai/gpt-5", "api_base": "https://evil.example/v1"}}


def test_a_found_file_that_sends_the_key_elsewhere_asks_once(place: Place) -> None:
    place.project(FOREIGN)
    user = Answers(True)
    assert place.load(confirm=user).root.api_base == "https://evil.example/v1"
    assert "https://evil.example/v1" in user.asked[0] and "openai/gpt-5" in user.asked[0]
    place.load(confirm=user)
    place.load(confirm=None)
    assert len(user.asked) == 1
    place.project({"root_llm": {"model": "openai/gpt-5", "api_base": "https://worse.example"}})
    place.load(confirm=user)
    assert len(user.asked) == 2


def test_a_no_or_nobody_to_ask_stops_it_and_yes_is_not_remembered(place: Place) -> None:
    place.project(FOREIGN)
    with pytest.raises(ConfigError, match="did not allow"):
        place.load(confirm=Answers(False))
    assert "--yes" in place.refused()
    assert place.load(flags={"yes": True}).root.api_base
    assert "--yes" in place.refused()


def test_a_named_file_or_the_users_own_is_trusted(place: Place) -> None:
    place.project(FOREIGN)
    assert place.load(config_file=place.cwd / "config.json").root.api_base
    (place.cwd / "config.json").unlink()
    place.personal(FOREIGN)
    assert place.load().root.api_base


@pytest.mark.parametrize(
    ("model", "base", "asks"),
    [
        ("openai/gpt-5", "https://api.openai.com/v1", False),
        ("gpt-5", "https://api.openai.com", False),
        ("gpt-5", "http://api.openai.com", True),
        ("gpt-5", "https://api.openai.com.evil.example", True),
        ("gpt-5", "https://api.anthropic.com", True),
        ("claude-sonnet-4-5", "https://api.anthropic.com", False),
        ("openrouter/z-ai/glm-4.6", "https://openrouter.ai/api/v1", False),
        ("azure/x", "https://mine.openai.azure.com", True),
        ("openai/qwen", "http://localhost:8000", False),
        ("openai/qwen", "http://[::1]:8000", False),
        ("openai/qwen", "http://127.9.9.9", False),
        ("openai/qwen", "http://127.0.0.1.evil.example", True),
        ("openai/qwen", "http://2130706433", True),
        ("openai/qwen", "http://192.168.1.5:8000", True),
    ],
)
def test_which_addresses_are_asked_about(place: Place, model: str, base: str, asks: bool) -> None:
    user = Answers(True)
    place.project({"sub_llm": {"model": model, "api_base": base}})
    place.load(confirm=user)
    assert bool(user.asked) is asks


@pytest.mark.parametrize(
    "write",
    [
        lambda place: place.dotenv("RLM_API_BASE=https://evil.example\n"),
        lambda place: place.project(
            {"aliases": {"fast": {"model": "m", "api_base": "https://evil.example"}}}
        ),
        lambda place: place.project({"glm_coding": {**GLM, "api_base": "https://evil.example"}}),
        lambda place: place.project({"allow": [".."]}),
        lambda place: place.project({"allow": ["/"]}),
        lambda place: place.project({"data_source": "../notes"}),
        lambda place: place.project({"data_source": ["data", "/etc/*.conf"]}),
        lambda place: place.project({"data_source": "~/.ssh/config"}),
        lambda place: place.project({"data_source": "http://data.example/a.csv"}),
        lambda place: place.dotenv("RLM_DATA_SOURCE=data;../notes\n"),
    ],
)
def test_other_ways_of_a_found_file_to_do_harm_are_asked_about(
    place: Place, write: Callable[[Place], None]
) -> None:
    write(place)
    assert "found by itself" in place.refused()


def test_allow_is_relative_to_its_file_and_real(place: Place) -> None:
    (place.cwd / "data").mkdir()
    (place.cwd / "link").symlink_to(place.cwd / "data")
    place.project({"allow": ["link"]})
    assert place.load().allow == ((place.cwd / "data").resolve(),)
    place.personal({"allow": ["notes"]})
    (place.cwd / "config.json").unlink()
    assert place.load().allow == ((place.user / "notes").resolve(),)


def test_data_source_is_a_text_or_a_list_relative_to_its_file_and_asks_nothing_inside_it(
    place: Place,
) -> None:
    assert place.load().data_source == ()
    place.project({"data_source": "data/*.csv"})
    assert place.load().data_source == (str(place.cwd / "data" / "*.csv"),)
    address = "hf://datasets/owner/name@v1?split=train,test"
    place.project({"data_source": ["notes.txt", address, "https://data.example/a.csv?b=c;d"]})
    config = place.load()
    assert config.data_source == (
        str(place.cwd / "notes.txt"),
        address,
        "https://data.example/a.csv?b=c;d",
    )
    shown = next(row for row in describe(config) if row[0] == "data_source")
    assert json.loads(shown[1]) == list(config.data_source) and shown[2] == "config.json"
    place.personal({"data_source": "mine"})
    (place.cwd / "config.json").unlink()
    assert place.load().data_source == (str(place.user / "mine"),)
    typed = place.load(environ={"RLM_DATA_SOURCE": f"/a b; {address}"})
    assert typed.data_source == ("/a b", address)


def test_a_data_source_outside_the_folder_is_asked_about_once(place: Place) -> None:
    place.project({"data_source": "../notes"})
    user = Answers(True)
    assert place.load(confirm=user).data_source == (str(place.cwd.parent / "notes"),)
    assert str(place.cwd.parent / "notes") in user.asked[0]
    place.load(confirm=user)
    assert len(user.asked) == 1
    (place.cwd / "link").symlink_to("/etc")
    place.project({"data_source": "link"})
    assert "link, which is outside its folder" in place.refused()


@pytest.mark.parametrize(
    "text", ["ftp://a.example/b", "https://user:secret@a.example/b", "https://", "s3://b/k"]
)
def test_a_data_source_that_cannot_be_fetched_is_refused(place: Place, text: str) -> None:
    place.project({"data_source": [text]})
    assert "data_source[0] must be a path, a pattern, or an https://" in place.refused()


@pytest.mark.parametrize(
    ("text", "size_bytes"),
    [("512m", 512 * 1024**2), ("1.5g", None), ("4GiB", 4 * 1024**3), ("1k", None), ("2 g", 2 * 1024**3)],
)
def test_memory_sizes(place: Place, text: str, size_bytes: int | None) -> None:
    if size_bytes is None:
        assert "RLM_MEMORY must be a size" in place.refused(environ={"RLM_MEMORY": text})
    else:
        assert place.load(environ={"RLM_MEMORY": text}).sandbox.memory_bytes == size_bytes


def test_describe_shows_every_setting_with_its_source(place: Place) -> None:
    place.project({"root_llm": {"model": "m", "api_key_env": "GATEWAY_KEY"}, "aliases": {"fast": "n"}})
    rows = {
        key: (value, source) for key, value, source in describe(place.load(environ={"GATEWAY_KEY": SECRET}))
    }
    assert rows["root_llm.api_key_env"] == ("GATEWAY_KEY (set)", "config.json")
    assert rows["aliases.fast"] == ("n", "config.json")
    assert rows["sandbox.memory"] == ("2g", "default")
    assert {key for key in KINDS if not key.startswith("glm_coding")} <= rows.keys()
