"""Knobs: one table, typed; layers in order; a mistake is one sentence with its file and line."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

import condor_starter
from condor_starter.knobs import KnobError, load
from condor_starter.knobs.condor import parse_dump, pool_configuration
from condor_starter.knobs.table import find, table
from condor_starter.knobs.values import convert

SOURCE = Path(condor_starter.__file__).parent
ETC = Path(__file__).parents[2] / "etc"


def used() -> set[str]:
    """Every knob that the source asks for by name."""
    call = re.compile(
        r"(?:\.(?:text|integer|number|flag|words|origin)|expression)\(\s*(?:\w+, )?\"([A-Z][A-Z_0-9]+)\""
    )
    names = {n for path in SOURCE.rglob("*.py") for n in call.findall(path.read_text(encoding="utf-8"))}
    in_loops = re.compile(r"for \w+ in \(((?:\"[A-Z_]+\"(?:, )?)+)\)")
    for path in SOURCE.rglob("*.py"):
        for group in in_loops.findall(path.read_text(encoding="utf-8")):
            names |= {n for n in re.findall(r"\"([A-Z_]+)\"", group) if find(n)}
    return names


@pytest.mark.req("H2")
class TestTable:
    def test_every_knob_that_the_source_asks_for_is_in_the_table(self) -> None:
        assert used() - set(table()) == set()

    def test_every_knob_in_the_table_does_something(self) -> None:
        by_pattern = {"SLOT<n>_USER"}
        assert set(table()) - used() - by_pattern == set()

    @pytest.mark.parametrize("name", sorted(table()))
    def test_each_row_is_whole_and_its_default_has_its_type(self, name: str) -> None:
        knob = table()[name]
        assert knob.name == name == name.upper().replace("<N>", "<n>")
        assert knob.doc.endswith(".") and knob.since
        assert convert(knob.type, knob.default) == knob.default

    def test_what_htcondor_sets_otherwise_is_said_with_its_reason(self) -> None:
        assert "HTCondor's default is false" in table()["USE_PID_NAMESPACES"].differs

    def test_a_slots_knob_is_found_by_its_number(self) -> None:
        knobs = load(environ={"_CONDOR_SLOT1_2_USER": "alice"})
        assert knobs.text("SLOT1_2_USER") == "alice" and knobs.text("SLOT7_USER") == ""
        assert find("SLOTX_USER") is None


@pytest.mark.req("H2")
class TestLayers:
    def test_the_later_layer_wins(self, tmp_path: Path) -> None:
        etc = tmp_path / "knobs.yaml"
        etc.write_text("LOG: /etc-log\nEXECUTE: /etc-execute\nBIN: /etc-bin\nUID_DOMAIN: etc\n")
        condor = {"EXECUTE": "/pool-execute", "BIN": "/pool-bin", "UID_DOMAIN": "pool", "SCHEDD": "ignored"}
        environ = {"_CONDOR_BIN": "/env-bin", "_condor_UID_DOMAIN": "env", "PATH": "/bin"}
        knobs = load([etc], condor=condor, environ=environ, overrides={"uid_domain": "cli"})
        found = [knobs.text(n) for n in ("LOG", "EXECUTE", "BIN", "UID_DOMAIN", "BASE_CGROUP")]
        assert found == ["/etc-log", "/pool-execute", "/env-bin", "cli", "htcondor"]
        assert [knobs.origin(n) for n in ("LOG", "EXECUTE", "BIN", "UID_DOMAIN", "BASE_CGROUP")] == [
            f"{etc}, line 1",
            "condor_config",
            "environment",
            "command line",
            "default",
        ]

    @pytest.mark.parametrize(
        ("text", "words"),
        [
            ("LOG: /x\nEXECUT: /x\n", "line 2: EXECUT is not a knob of this starter; did you mean EXECUTE?"),
            ("\n\nKILLING_TIMEOUT: soon\n", "line 3: KILLING_TIMEOUT: expected a number, found 'soon'"),
            ("USE_PID_NAMESPACES: 17\n", "line 1: USE_PID_NAMESPACES: expected true or false, found 17"),
            ("EXECUTE: [a, b]\n", "line 1: EXECUTE: expected text, found ['a', 'b']"),
            ("STARTER_JOB_PIDS: 1.5\n", "line 1: STARTER_JOB_PIDS: expected a whole number"),
            ("STARTER_JOB_PIDS:\n", "line 1: STARTER_JOB_PIDS: expected a whole number, found nothing"),
            ("just words\n", "line 1: expected lines of NAME: value"),
            ("a: [\n", "not YAML"),
        ],
    )
    def test_a_mistake_in_our_file_is_one_sentence_with_file_and_line(
        self, tmp_path: Path, text: str, words: str
    ) -> None:
        etc = tmp_path / "knobs.yaml"
        etc.write_text(text)
        with pytest.raises(KnobError) as e:
            load([etc], environ={})
        assert str(e.value).startswith(str(etc)) and words in str(e.value) and "\n" not in str(e.value)

    def test_a_file_that_is_not_there_is_an_error(self, tmp_path: Path) -> None:
        with pytest.raises(KnobError, match="cannot be read"):
            load([tmp_path / "none.yaml"], environ={})

    def test_a_mistyped_value_of_the_pool_is_told_a_foreign_knob_is_not(self) -> None:
        load(condor={"NO_SUCH_KNOB": "x", "STARTER": "/usr/sbin/condor_starter"}, environ={})
        with pytest.raises(KnobError, match="condor_config: USE_PID_NAMESPACES"):
            load(condor={"USE_PID_NAMESPACES": "perhaps"}, environ={})

    def test_a_clients_environment_is_one_more_layer(self) -> None:
        knobs = load(environ={}).with_environ({"_CONDOR_EXECUTE": "/slot1"})
        assert knobs.text("EXECUTE") == "/slot1"

    def test_our_own_example_file_is_all_defaults(self) -> None:
        text = (ETC / "condor_starter.yaml").read_text(encoding="utf-8")
        assert load([ETC / "condor_starter.yaml"], environ={}).changed() == {}
        settings = re.findall(r"^# ([A-Z_]+): ", text, re.MULTILINE)
        assert len(settings) > 5 and all(find(name) for name in settings)


class TestValues:
    @pytest.mark.parametrize(
        ("kind", "written", "value"),
        [
            ("size", "10 Mb", 10 << 20),
            ("size", "64k", 64 << 10),
            ("size", "1GB", 1 << 30),
            ("size", 4096, 4096),
            ("number", "10 * 60", 600.0),
            ("integer", "2 * 21", 42),
            ("flag", "True", True),
            ("flag", "no", False),
            ("words", '"/tmp, /var/tmp"', ("/tmp", "/var/tmp")),
            ("words", ["a b", "c"], ("a b", "c")),
            ("expression", True, "true"),
            ("text", 7, "7"),
        ],
    )
    def test_condor_config_and_yaml_mean_the_same(self, kind: str, written: object, value: object) -> None:
        assert convert(kind, written) == value

    @given(st.sampled_from(["text", "integer", "number", "flag", "size", "words", "expression"]), st.text())
    def test_any_text_is_a_value_or_a_value_error(self, kind: str, text: str) -> None:
        try:
            convert(kind, text)
        except ValueError as e:
            assert str(e).startswith("expected")  # noqa: PT017


@pytest.mark.req("H2")
class TestPoolConfiguration:
    DUMP = (
        "# Configuration from machine: vm\n"
        "EXECUTE = /var/lib/condor/execute\n # at: /etc/condor/condor_config, line 81\n # raw: $(X)/x\n"
        "USE_PID_NAMESPACES = false\n # at: <Default>\n # raw: false\n"
        "BASE_CGROUP = \n # at: /etc/condor/config.d/1, line 1\n"
        "STARTER.LOG = /starter\n # at: /etc/condor/config.d/1, line 2\n"
        "LOG = /all\n # at: /etc/condor/config.d/1, line 3\n"
        "slot_type_1.BIN = /type1\n # at: /etc/condor/config.d/1, line 4\n"
    )

    def test_htcondors_defaults_are_left_out_and_its_settings_are_taken(self) -> None:
        found = parse_dump(self.DUMP, "slot_type_1")
        assert found["EXECUTE"] == "/var/lib/condor/execute" and "USE_PID_NAMESPACES" not in found
        assert found["LOG"] == "/starter" and found["BIN"] == "/type1" and found["BASE_CGROUP"] == ""

    def test_without_htcondor_there_is_no_such_layer(self, tmp_path: Path) -> None:
        assert pool_configuration({"PATH": str(tmp_path)}) == {}

    def test_the_tool_is_asked_once_and_with_a_clean_environment(self, tmp_path: Path) -> None:
        tool = tmp_path / "condor_config_val"
        tool.write_text(
            '#!/bin/sh\necho "$@" >> $(dirname $0)/calls\nenv > $(dirname $0)/env\n'
            "printf 'LOG = /pool\\n # at: x, line 1\\n'\n"
        )
        tool.chmod(0o755)
        (tmp_path / "condor_config").write_text("")
        environ = {
            "PATH": f"{tmp_path}:/usr/bin:/bin",
            "CONDOR_CONFIG": str(tmp_path / "condor_config"),
            "CONDOR_PRIVATE_INHERIT": "secret",
        }
        assert [pool_configuration(environ, "slot_type_1") for _ in range(3)] == [{"LOG": "/pool"}] * 3
        calls = (tmp_path / "calls").read_text().splitlines()
        assert calls == ["-subsystem STARTER -local-name slot_type_1 -verbose -expand -dump"]
        assert "secret" not in (tmp_path / "env").read_text()
