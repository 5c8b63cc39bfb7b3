"""The genuine starter's command line: abbreviations, order, and the rules between options."""

from __future__ import annotations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from condor_starter.calls.options import Options, UsageError, parse_args

LOCAL = ["-job-input-ad", "job.ad"]


@pytest.mark.req("H1")
@pytest.mark.parametrize(
    ("line", "found"),
    [
        ("-f -a slot1_1 127.0.0.1", Options(log_suffix="slot1_1", shadow_host="127.0.0.1")),
        (
            "-f -local-name slot_type_1 -a slot1 127.0.0.1",
            Options(local_name="slot_type_1", log_suffix="slot1", shadow_host="127.0.0.1"),
        ),
        (
            "-f -a2 D_FULLDEBUG,/x/.starter.log -a slot1_2 -slot-name slot1_2 submit.example.org",
            Options(
                second_log="D_FULLDEBUG,/x/.starter.log",
                log_suffix="slot1_2",
                slot_name="slot1_2",
                shadow_host="submit.example.org",
            ),
        ),
    ],
)
def test_how_a_startd_calls_its_starter(line: str, found: Options) -> None:
    assert parse_args(line.split()) == found


@pytest.mark.req("H5")
def test_a_local_job_with_every_flag() -> None:
    line = (
        "-f -t -job-input-ad - -job-output-ad out -job-update-ad up -job-stdin in -job-stdout o "
        "-job-stderr e -job-cluster 7 -job-proc 2 -job-subproc 0 -header (7.2)"
    )
    found = parse_args(line.split())
    assert found == Options(
        log_to_stderr=True,
        header="(7.2)",
        job_input_ad="-",
        job_output_ad="out",
        job_update_ad="up",
        job_stdin="in",
        job_stdout="o",
        job_stderr="e",
        job_cluster=7,
        job_proc=2,
        job_subproc=0,
    )


@pytest.mark.req("H5")
def test_how_a_schedd_calls_it_for_local_universe() -> None:
    found = parse_args(
        ["-f", "-job-cluster", "7", "-job-proc", "0", "-header", "(7.0) ", "-job-input-ad", "-"]
    )
    assert (found.job_cluster, found.header, found.job_input_ad) == (7, "(7.0) ", "-")


@pytest.mark.parametrize("word", ["-cla", "-clas", "-classad"])
def test_the_probe_may_be_abbreviated(word: str) -> None:
    assert parse_args([word]).classad


@pytest.mark.parametrize(
    ("short", "value"),
    [("-job-i", "job_input_ad"), ("-job-inp", "job_input_ad"), ("-h", "header"), ("-job-stdo", "job_stdout")],
)
def test_unambiguous_beginnings_are_understood(short: str, value: str) -> None:
    assert getattr(parse_args([*LOCAL, short, "x"]), value) == "x"


def test_the_last_of_a_repeated_option_counts() -> None:
    assert parse_args(["-job-input-ad", "a", "-job-input-ad", "b"]).job_input_ad == "b"


def test_daemon_options_end_at_the_first_word_that_is_none() -> None:
    with pytest.raises(UsageError, match="-f is not an option"):
        parse_args([*LOCAL, "-f"])


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("", "nothing to run"),
        ("-f", "nothing to run"),
        ("host -job-input-ad x", "exclude each other"),
        ("-job-input-ad", "needs a value"),
        ("-job-input-ad x -job-std y", "-job-std is not an option"),
        ("-job-input-ad x -nonsense", "-nonsense is not an option"),
        ("-job-input-ad x -job-cluster -1", "-job-cluster needs a number"),
        ("-job-input-ad x -job-proc two", "-job-proc needs a number"),
        ("-job-input-ad - -job-stdin -", "cannot both be our standard input"),
        ("-job-input-ad x -job-output-ad - -job-stdout -", "cannot both be our standard output"),
        ("-schedd-addr <1.2.3.4:5> host", "-schedd-addr needs"),
    ],
)
def test_what_cannot_be_carried_out_is_a_usage_error(line: str, words: str) -> None:
    with pytest.raises(UsageError, match=words.replace("(", r"\(")):
        parse_args(line.split())


@pytest.mark.parametrize(
    ("line", "slot"),
    [
        ("-a slot1_3 h", "slot1_3"),
        ("-a 12.0 h", "slot1"),
        ("-a x -slot-name slot2 h", "slot2"),
        ("h", "slot1"),
    ],
)
def test_the_slots_name(line: str, slot: str) -> None:
    assert parse_args(line.split()).slot == slot


@given(
    st.lists(
        st.sampled_from(["-f", "-a", "-a2", "-t", "-job-i", "-job-s", "-", "--", "-x", "h", "", "7", "-cla"])
    )
)
def test_any_words_are_options_or_a_usage_error(words: list[str]) -> None:
    try:
        found = parse_args(words)
    except UsageError:
        return
    assert found.classad or found.shadow_host or found.job_input_ad
