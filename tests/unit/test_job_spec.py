"""JobSpec from an ad: what is understood, what is refused and in which words; hostile ads do no harm."""

from __future__ import annotations

import contextlib
import signal
import time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from condor_starter.arguments import SyntaxProblem, environment_v1, environment_v2, split_v1, split_v2
from condor_starter.job import BadAd, JobSpec, Streams, Universe, spec_from_ad
from condor_starter.sandbox.ads import parse_ad

HELLO = 'Cmd = "/bin/true"\n'


def spec(text: str, **options: object) -> JobSpec:
    return spec_from_ad(parse_ad(HELLO + text), **options)  # type: ignore[arg-type]


def refused(text: str) -> str:
    with pytest.raises(BadAd) as e:
        spec_from_ad(parse_ad(text))
    return e.value.text


def quote_v2(words: list[str]) -> str:
    """As condor_submit writes arguments."""
    return " ".join("'" + w.replace("'", "''") + "'" for w in words)


class TestArguments:
    @given(st.lists(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]))))
    def test_what_condor_submit_quotes_comes_back_word_for_word(self, words: list[str]) -> None:
        assert split_v2(quote_v2(words)) == words

    @given(st.text(alphabet="ab' \t\n"))
    def test_any_string_is_words_or_one_clear_error(self, string: str) -> None:
        if string.count("'") % 2:
            with pytest.raises(SyntaxProblem, match="quote"):
                split_v2(string)
        else:
            assert "".join(split_v2(string)).count("a") == string.count("a")

    @pytest.mark.parametrize(
        ("string", "words"),
        [
            ("", []),
            ("one two", ["one", "two"]),
            ("''", [""]),
            ("a'b c'd", ["ab cd"]),
            ("'it''s'", ["it's"]),
            ("''''", ["'"]),
            (" \t a\n b ", ["a", "b"]),
        ],
    )
    def test_new_syntax(self, string: str, words: list[str]) -> None:
        assert split_v2(string) == words

    def test_old_syntax_splits_at_blanks_and_quotes_nothing(self) -> None:
        assert split_v1("a 'b c' \"d\"") == ["a", "'b", "c'", '"d"']

    def test_the_new_arguments_win_over_the_old(self) -> None:
        assert spec('Args = "old"\nArguments = "\'new one\'"').args == ("new one",)
        assert spec('Args = "old one"').args == ("old", "one")


class TestEnvironment:
    @given(
        st.dictionaries(
            st.text(st.characters(categories=["L", "N"]), min_size=1),
            st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"])),
        )
    )
    def test_new_syntax_brings_every_variable_back(self, env: dict[str, str]) -> None:
        assert environment_v2(quote_v2([f"{n}={v}" for n, v in env.items()])) == env

    def test_old_syntax_separates_by_semicolon_or_by_what_the_ad_says(self) -> None:
        assert environment_v1("A=1; B=x y;;C=") == {"A": "1", "B": "x y", "C": ""}
        assert spec('Env = "A=1|B=2"\nEnvDelim = "|"').environment == {"A": "1", "B": "2"}

    def test_values_may_hold_equals_signs(self) -> None:
        assert environment_v2("A=b=c") == {"A": "b=c"}

    @pytest.mark.parametrize("bad", ["NOEQUALS", "=value"])
    def test_what_is_no_variable_is_named(self, bad: str) -> None:
        assert bad in refused(HELLO + f'Environment = "{bad}"')


class TestValues:
    def test_a_minimal_ad_has_defaults_for_all_the_rest(self) -> None:
        found = spec("")
        assert (found.id, found.universe, found.args, found.iwd) == ("1.0", Universe.VANILLA, (), "")
        assert found.streams == Streams() and found.request_cpus == 1.0 and found.request_memory_mb is None
        assert (found.kill_sig, found.remove_kill_sig, found.hold_kill_sig) == (15, 15, 15)
        assert not found.transfer_files and found.transfer_output is None and found.docker is None

    @pytest.mark.parametrize(
        ("written", "number"),
        [('"SIGINT"', 2), ('"int"', 2), ('"USR1"', signal.SIGUSR1), ("9", 9), ('"9"', 9), ("12", 12)],
    )
    def test_kill_signals_by_name_and_by_number(self, written: str, number: int) -> None:
        found = spec(f"KillSig = {written}")
        assert (found.kill_sig, found.remove_kill_sig, found.hold_kill_sig) == (number,) * 3

    def test_each_occasion_has_its_own_signal(self) -> None:
        found = spec('KillSig = "INT"\nRemoveKillSig = "HUP"\nHoldKillSig = "QUIT"')
        assert (found.kill_sig, found.remove_kill_sig, found.hold_kill_sig) == (2, 1, 3)

    @pytest.mark.parametrize(
        ("lines", "owner"),
        [
            ('OsUser = "a"\nUser = "b@x"\nOwner = "c"', "a"),
            ('User = "b@x"\nOwner = "c"', "b"),
            ('Owner = "c"', "c"),
            ("", ""),
        ],
    )
    def test_the_account_is_osuser_else_user_else_owner(self, lines: str, owner: str) -> None:
        assert spec(lines).owner == owner

    def test_requests_may_be_expressions(self) -> None:
        found = spec("ImageSize = 204800\nRequestMemory = (ImageSize + 1023) / 1024\nRequestCpus = 2 * 2")
        assert (found.request_memory_mb, found.request_cpus) == (200, 4.0)
        usual = "ifThenElse(MemoryUsage =!= undefined, MemoryUsage, 77)"
        assert spec(f"RequestMemory = {usual}").request_memory_mb == 77

    @pytest.mark.parametrize(
        ("wish", "domain", "moves"),
        [
            ("YES", "here", True),
            ("NO", "there", False),
            ("IF_NEEDED", "here", False),
            ("IF_NEEDED", "there", True),
            ("if_needed", "", True),
        ],
    )
    def test_files_travel_if_they_have_to(self, wish: str, domain: str, moves: bool) -> None:
        text = f'ShouldTransferFiles = "{wish}"\nFileSystemDomain = "HERE"'
        assert spec(text, filesystem_domain=domain).transfer_files is moves
        assert spec(text, filesystem_domain=domain, transfers=False).transfer_files is False

    def test_lists_of_files_are_strings_with_commas_or_classad_lists(self) -> None:
        assert spec('TransferInput = "a, b ,,c d"').transfer_input == ("a", "b", "c d")
        assert spec('TransferOutput = {"a", "b,c"}').transfer_output == ("a", "b,c")
        assert spec('TransferOutput = ""').transfer_output == ()

    @pytest.mark.req("D3", "D5")
    @pytest.mark.parametrize(
        ("image", "full"),
        [
            ("debian", "debian:latest"),
            ("debian:12", "debian:12"),
            ("docker://host:5000/a/b", "host:5000/a/b:latest"),
            ("host:5000/a/b:t", "host:5000/a/b:t"),
            ("a@sha256:0", "a@sha256:0"),
        ],
    )
    def test_docker_images_get_a_tag(self, image: str, full: str) -> None:
        found = spec(f'WantDocker = true\nDockerImage = "{image}"')
        assert found.docker is not None and found.docker.image == full

    @pytest.mark.req("D7")
    def test_a_docker_job_may_have_no_program(self) -> None:
        found = spec_from_ad(parse_ad('WantContainer = true\nWantDockerImage = true\nContainerImage = "x"'))
        assert found.cmd == "" and found.docker is not None and found.docker.image == "x:latest"

    def test_universes_by_number_and_by_name(self) -> None:
        assert spec("JobUniverse = 12").universe is Universe.LOCAL
        assert spec('JobUniverse = "vanilla"').universe is Universe.VANILLA
        assert spec('JobUniverse = "docker"\nDockerImage = "x"').docker is not None


@pytest.mark.req("X9")
class TestRefusals:
    @pytest.mark.parametrize(
        ("ad", "words"),
        [
            ('Args = "x"', "Cmd is missing"),
            ("Cmd = 5", "Cmd must be a string"),
            ('Cmd = strcat("/bin/", "true")', "strcat()"),
            (HELLO + "Arguments = 7", "Arguments must be a string"),
            (HELLO + 'Arguments = "it\'s"', "single quote"),
            (HELLO + 'RequestMemory = "lots"', "RequestMemory must be a number"),
            (HELLO + "RequestMemory = -1", "RequestMemory = -1"),
            (HELLO + "RequestMemory = error", "evaluates to an error"),
            (HELLO + 'RequestCpus = real("inf")', "RequestCpus must be a number"),
            (HELLO + "RequestCpus = 0", "RequestCpus = 0"),
            (HELLO + "JobUniverse = 13", "13 (vm) is not supported"),
            (HELLO + "JobUniverse = true", "not supported"),
            (HELLO + 'KillSig = "SIGNOTHING"', "KillSig names no signal"),
            (HELLO + "KillSig = 4711", "KillSig names no signal"),
            (HELLO + "ClusterId = -4", "ClusterId = -4"),
            (HELLO + "WantDocker = true", "DockerImage is missing"),
            (HELLO + "WantContainer = true", "WantDockerImage"),
            (HELLO + 'ShouldTransferFiles = "MAYBE"', "YES, NO or IF_NEEDED"),
            (HELLO + 'OsUser = "../x"', "no account name"),
            (HELLO + 'Iwd = "' + "x" * 5000 + '"', "longer than a path"),
            (HELLO + 'Arguments = "' + "x" * 200000 + '"', "131071 is the most"),
            ('[Cmd = "/bin/tr\\000ue"]', "new syntax"),
        ],
    )
    def test_one_sentence_says_what_and_where(self, ad: str, words: str) -> None:
        text = refused(ad)
        assert words in text and "\n" not in text and len(text) < 400

    def test_too_many_words_are_refused_before_anything_is_built(self) -> None:
        many = " ".join(["x" * 100000] * 12)
        variables = " ".join(f"V{i}={'x' * 100000}" for i in range(12))
        assert "exceed" in refused(HELLO + f'Arguments = "{many}"\nEnvironment = "{variables}"')


@pytest.mark.req("P6", "X2")
class TestHostileExpressions:
    @pytest.mark.parametrize("width", [2, 40])
    def test_an_exponential_chain_is_refused_at_once(self, width: int) -> None:
        links = [f"a{i} = " + " + ".join([f"a{i + 1}"] * width) for i in range(60)]
        began = time.monotonic()
        assert "too long" in refused(HELLO + "RequestMemory = a0\n" + "\n".join(links) + "\na60 = 1\n")
        assert time.monotonic() - began < 1.0

    def test_a_circle_is_refused(self) -> None:
        assert "too long" in refused(HELLO + "RequestMemory = a\na = b\nb = RequestMemory\n")

    @pytest.mark.parametrize(
        "call", ['replaceAll("a", "bb", "aa")', "userHome(Owner)", 'join(",", {"a"})', "eval(A)", "random(5)"]
    )
    def test_functions_that_make_text_or_look_around_are_not_called(self, call: str) -> None:
        assert "is not evaluated here" in refused(HELLO + f"RequestMemory = {call}")

    def test_quoted_names_do_not_hide_a_chain(self) -> None:
        assert "quoted" in refused(HELLO + "RequestMemory = 'a b' + 'a b'\n")

    @settings(max_examples=200, deadline=2000)
    @given(st.text(st.characters(exclude_characters="\0", exclude_categories=["Cs"]), max_size=60))
    def test_no_value_of_any_attribute_does_more_than_refuse(self, value: str) -> None:
        for name in ("RequestMemory", "KillSig", "Arguments", "WantDocker", "TransferInput"):
            with contextlib.suppress(BadAd):
                spec(f"{name} = {value}")
