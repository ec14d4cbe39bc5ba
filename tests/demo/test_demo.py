"""The demo on a small random pipeline in the place of the embedded model."""

import html
import json

import pytest
import torch

from adjointdpm import zoo
from adjointdpm.demo import job
from adjointdpm.demo.__main__ import main
from adjointdpm.pipelines import differentiable
from tests.support.tiny_pipeline import tiny_pipeline


@pytest.fixture
def small(monkeypatch, tmp_path):
    pipe = tiny_pipeline()
    pipe.save_pretrained(tmp_path / "model")
    monkeypatch.setattr(zoo, "emoji", lambda: pipe, raising=False)
    monkeypatch.setattr(zoo, "emoji_folder", lambda: tmp_path / "model", raising=False)
    monkeypatch.setattr(job, "STEPS", 2)
    monkeypatch.setattr(job, "CHECK_STEPS", (2, 4))
    threads = torch.get_num_threads()
    yield tmp_path
    torch.set_num_threads(threads)


def test_it_writes_its_report_and_goes_on_after_a_kill(small, monkeypatch, capsys):
    arguments = ["--out", str(small / "demo"), "--epochs", "3", "--threads", "1"]
    real, calls = job.learn, []

    def killed(generator, one, folder, epochs, on_step):
        def step(done, total, loss):
            calls.append((one.effect, done))
            on_step(done, total, loss)
            if calls == [("duotone", 1), ("duotone", 2), ("duotone", 3), ("sepia", 1)]:
                raise KeyboardInterrupt

        return real(generator, one, folder, epochs, step)

    monkeypatch.setattr(job, "learn", killed)
    assert main(arguments) == 130
    assert not (small / "demo" / "report.html").exists()
    assert main(arguments) == 0
    assert calls[4:] == [("sepia", 1), ("sepia", 2), ("sepia", 3)]  # duotone was finished and is not learnt again
    printed = capsys.readouterr().out.split()
    assert printed[-1] == str((small / "demo" / "report.html").resolve())
    page = html.unescape((small / "demo" / "report.html").read_text())
    for text in (
        "A duotone, for which there is no word",
        "0 (bit equal)",
        "true effect",
        "encode_prompt",
        "plain diffusers",
    ):
        assert text in page
    assert page.count('class="pixels"') == 2 * 3 * len(job.UNSEEN_PROMPTS)
    code = page.split("<pre><code>")[1].split("</code>")[0]
    space: dict = {}
    exec(code, space)
    assert space["image"].size == (16, 16)
    runs = list((small / "demo" / "runs").iterdir())
    assert {json.loads((run / "run.json").read_text())["status"] for run in runs} == {"finished"}


def test_other_settings_get_folders_of_their_own(small):
    generator = differentiable(tiny_pipeline(), wrt=("cond",))
    one = job.DEMONSTRATIONS[0]
    first = job.learn(generator, one, small, 1, lambda *_: None)
    second = job.learn(generator, one, small, 2, lambda *_: None)
    assert first.folder != second.folder


def test_errors_are_one_line(small, capsys):
    (small / "file").write_text("x")
    assert main(["--out", str(small / "file"), "--epochs", "1", "--threads", "1"]) == 1
    error = capsys.readouterr().err
    assert error.startswith("error: ")
    assert error.count("\n") == 1
    with pytest.raises(SystemExit, match="2"):
        main(["--epochs", "0"])
