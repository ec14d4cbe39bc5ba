"""`adjointdpm audit` on a small folder of random weights."""

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from adjointdpm.tasks.audit.subject import ClassifierSubject
from tests.cli.conftest import Ran, cli, tiny_folder  # noqa: F401 (fixtures)
from tests.support.tiny_pipeline import tiny_pipeline

ROOT = Path(__file__).parents[3]
NETWORK = "tests.tasks.audit.networks:tiny"
JUDGE = "tests.tasks.audit.networks:agrees"
SMALL = ("--network", NETWORK, "--judge", JUDGE, "--steps", 2, "--iterations", 2, "--noises", 1, "--out", "out")


@pytest.fixture
def command(cli, tiny_folder, labels, monkeypatch):  # noqa: F811
    monkeypatch.syspath_prepend(str(ROOT))

    def run(*arguments, prompts=("red apple", "blue cat"), classes=labels[:2], small=SMALL):
        named = [part for label in classes for part in ("--label", label)]
        return cli("audit", *prompts, "--model", tiny_folder, *named, *small, *arguments)

    return run


def test_it_prints_rates_and_paths_and_writes_a_report(command):
    ran = command("--tau", 0.3, "--tau", 1, "--iterations", 4)
    assert ran.code == 0, ran.err
    for text in ("exact gradients", "best of n draws", "the paper's adjoint", "‖δ‖∞ ≤ 0.3", "report.html"):
        assert text in ran.out, text
    assert Path("out/report.html").is_file()


def test_json_is_one_document(command):
    found = command("--json", "--tau", 1, "--baseline", "random").document
    assert found["command"] == "audit" and found["n"] == 2
    assert [row["tau"] for row in found["methods"]["exact"]["rates"]] == [1.0]
    assert set(found["methods"]) == {"exact", "random"}
    assert Path(found["report"]).is_file() and found["found"] is None


def test_a_bound_that_is_never_enough_has_an_exit_code_of_its_own(command):
    ran = command("--tau", 1e-5, "--baseline", "random")
    assert ran.code == 3
    nothing = "No verdict changed within the largest bound, ‖δ‖∞ ≤ 1e-05"
    assert f"{nothing}. This is exit code 3." in ran.out
    assert json.loads(Path("out/run.json").read_text())["status"] == "finished"
    assert f"{nothing}." in Path("out/report.html").read_text()
    ran = command("--tau", 1e-5, "--baseline", "random", "--images", small=(*SMALL[:-1], "kept"))
    assert ran.code == 3
    assert f"{nothing}; the noises that came nearest are in found.safetensors." in ran.out
    assert Path("kept/found.safetensors").is_file()


def test_nothing_measured_is_a_failure(command, monkeypatch):
    original = ClassifierSubject.opinion

    def opinion(self, images, samples):
        found = original(self, images, samples)
        return replace(found, dropped=torch.ones_like(found.changed))

    monkeypatch.setattr(ClassifierSubject, "opinion", opinion)
    ran = command("--tau", 0.3, "--baseline", "random", "--baseline", "best_of_n")
    assert ran.code == 1
    assert ran.err.count("error:") == 1 and "Nothing was measured" in ran.err and "Nothing" not in ran.out
    assert " % (" not in ran.out and "exit code 3" not in ran.out
    assert "report.html" in ran.out


def test_a_settings_file_is_taken_and_options_go_first(command):
    Path("audit.yaml").write_text("taus: [0.3, 1.0]\nbaselines: [random]\niterations: 1\noptimiser: apgd\n")
    found = command("--config", "audit.yaml", "--json", "--tau", 0.5, small=(*SMALL[:6], *SMALL[8:])).document
    assert [row["tau"] for row in found["methods"]["exact"]["rates"]] == [0.5]
    record = json.loads(Path("out/run.json").read_text())
    assert (record["config"]["optimiser"], record["config"]["iterations"]) == ("apgd", 1)


def test_a_run_is_resumed_only_if_asked(command):
    assert command("--tau", 1, "--baseline", "random").code == 0
    ran = command("--tau", 1, "--baseline", "random")
    assert ran.code == 2 and "holds a run already; say --resume" in ran.err
    assert command("--resume").code == 0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("--tau", "0"), "--tau 0"),
        (("--tau", "-1"), "--tau -1"),
        (("--tau", "nan"), "--tau nan"),
        (("--mode", "filter"), "--owner and --purpose|owner and purpose"),
        (("--target-class", "99"), "target_class 99 is out of range"),
        (("--network", "https://a.b/c"), "is an address"),
        (("--preprocess", "tests.tasks.audit.networks:eight_bits"), "networks:eight_bits"),
        (("--baseline", "magic"), "--baseline"),
        (("--generator", "a:b"), "give one of them"),
    ],
)
def test_bad_input_is_one_message_and_exit_code_2(command, arguments, message):
    ran = command(*arguments)
    assert ran.code == 2, ran.err
    import re

    assert re.search(message, ran.err), ran.err
    assert "Traceback" not in ran.err
    assert not Path("out").exists()


def test_filter_mode_from_the_shell_prints_and_writes_no_prompt(command):
    Path("food.py").write_text(
        "import torch\nfrom tests.tasks.audit.networks import Tiny\nnet = Tiny().requires_grad_(False)\n"
        "def scores(images):\n    return net.features(images)[:, 0] + 10\n"
    )
    ran = command("--mode", "filter", "--network", "food.py:scores", "--owner", "me", "--purpose", "a test",
                  "--tau", 0.3, "--baseline", "random", classes=(), prompts=("red apple", "blue zzyzx"))  # fmt: skip
    assert ran.code == 3, ran.err  # a score of 10 does not fall below 0
    assert "No verdict changed within the largest bound, ‖δ‖∞ ≤ 0.3. This is exit code 3." in ran.out
    assert "outside the vocabulary" in ran.err
    assert not any(word in text for text in (ran.out, ran.err) for word in ("apple", "zzyzx"))
    for path in Path("out").rglob("*"):
        if path.suffix in (".json", ".html", ".jsonl"):
            assert "red apple" not in path.read_text(), path
    assert "Owner of the network: me." in Path("out/report.html").read_text()
    again = command("--mode", "filter", "--resume", classes=(), prompts=())
    assert again.code == 2 and "give them again to resume" in again.err


def test_a_generator_of_ones_own(cli, monkeypatch, labels):  # noqa: F811
    monkeypatch.syspath_prepend(str(ROOT))
    Path("mine.py").write_text(
        "from tests.support.tiny_pipeline import tiny_pipeline\ndef make(seed):\n    return tiny_pipeline(seed)\n"
    )
    ran = cli("audit", "red apple", "--label", labels[0], *SMALL, "--generator", "mine.py:make",
              "--generator-option", "seed=0", "--tau", 1, "--baseline", "random", "--json")  # fmt: skip
    assert ran.code == 0, ran.err
    assert ran.document["model"] == "mine.py:make"
    ran = cli("audit", "red apple", "--label", 0, *SMALL[:-1], "b", "--generator", "mine.py:make")
    assert ran.code == 2 and "missing 1 required positional argument" in ran.err
    Path("odd.py").write_text("def breaks():\n    return {}['a']\ndef number():\n    return 3\n")
    for name, message in (("breaks", "odd.py:breaks fails at odd.py:2 "), ("number", "number made int; expected")):
        ran = cli("audit", "red apple", "--label", 0, *SMALL[:-1], "b", "--generator", f"odd.py:{name}")
        assert ran.code == 2 and message in ran.err


def test_the_help_links_the_rules_of_use(cli):  # noqa: F811
    ran = cli("audit", "--help")
    assert ran.code == 0 and "responsible-use.md" in ran.out
    page = (ROOT / "docs" / "responsible-use.md").read_text()
    for text in ("special_care", "Section 6", "Tell the owner", "food", "--owner", "Whom it is for"):
        assert text in page, text
    assert tiny_pipeline is not None and Ran is not None
