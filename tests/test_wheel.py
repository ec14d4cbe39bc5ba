"""The wheel carries the embedded model: built, installed outside the checkout, it generates an image by itself."""

import os
import subprocess
import sys
import zipfile
from pathlib import Path

ROOT = Path(__file__).parents[1]
MAX_BYTES = 25e6

GENERATE = """
import adjointdpm as ad, torch
from pathlib import Path
site = Path({site!r}).resolve()
assert site in Path(ad.__file__).resolve().parents, ad.__file__
pipe = ad.zoo.emoji()
assert site in Path(ad.zoo.emoji_folder()).resolve().parents
with torch.no_grad():
    out = ad.differentiable(pipe)("red apple", seed=0, num_inference_steps=2, guidance_scale=2.0)
assert out.image.shape == (1, 3, 64, 64) and out.image.std() > 0.01
out.pil()[0].save({image!r})
"""


def test_wheel_generates_outside_the_checkout(tmp_path: Path) -> None:
    pip = [sys.executable, "-m", "pip", "--disable-pip-version-check", "--quiet"]
    build = ["wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", str(tmp_path), str(ROOT)]
    subprocess.run([*pip, *build], check=True)
    (wheel,) = tmp_path.glob("adjointdpm-*.whl")
    names = zipfile.ZipFile(wheel).namelist()
    assert "adjointdpm/py.typed" in names
    assert not [n for n in names if n.endswith((".pt", ".bin", ".ckpt", ".pkl"))]
    shipped = [f for f in zipfile.ZipFile(wheel).infolist() if f.filename.endswith(".safetensors")]
    assert shipped, "no weights in the wheel"
    assert sum(f.file_size for f in shipped) <= MAX_BYTES

    site, image = tmp_path / "site", tmp_path / "apple.png"
    subprocess.run([*pip, "install", "--no-deps", "--target", str(site), str(wheel)], check=True)
    code = GENERATE.format(site=str(site), image=str(image))
    # -P keeps the working directory off the path; PYTHONPATH comes before the editable install of the checkout.
    environment = {**os.environ, "HF_HUB_OFFLINE": "1", "PYTHONPATH": str(site)}
    run = subprocess.run([sys.executable, "-P", "-c", code], cwd=tmp_path, env=environment)
    assert run.returncode == 0
    assert image.stat().st_size > 200
