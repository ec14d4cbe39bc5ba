"""The code in docs/embeddings.md runs as it stands, in plain diffusers."""

import re
from pathlib import Path

import torch

from adjointdpm.formats import PromptEmbedding, TextualInversion, fingerprint
from adjointdpm.runs import load_tensors
from tests.support.tiny_pipeline import tiny_pipeline

PAGE = (Path(__file__).parents[2] / "docs" / "embeddings.md").read_text()


def test_every_block_runs(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    pipe = tiny_pipeline()
    provenance = {"base_model": fingerprint(pipe), "settings": {"effect": "duotone"}}
    PromptEmbedding(torch.randn(8, 32), "tail", 16, provenance).save("embedding.safetensors")
    TextualInversion("<tone>", torch.randn(2, 32)).save("token.safetensors")
    blocks = re.findall(r"```python\n(.*?)```", PAGE, re.DOTALL)
    assert len(blocks) == 3
    for block in blocks:
        space = {"pipe": pipe}
        exec(block, space)
        images = space.get("images", [space.get("image")])
        assert all(image.size == (16, 16) for image in images)
    assert capsys.readouterr().out.startswith("tail (8, 32) duotone")


def test_the_metadata_tables_name_what_the_files_hold(tmp_path):
    embedding = PromptEmbedding(torch.zeros(1, 4), "tail", 16).save(tmp_path / "e.safetensors")
    token = TextualInversion("<t>", torch.zeros(1, 4)).save(tmp_path / "t.safetensors")
    for path in (embedding, token):
        for key in load_tensors(path)[1]:
            assert f"`{key}`" in PAGE
