"""From nothing to an attacked service: teacher, DRA, export, load, attack, HTTP. Nothing stands in."""

import os
import re
import subprocess
import sys
import threading
from contextlib import contextmanager
from dataclasses import replace

import numpy as np
import pytest
import torch

import dra_serve
from dra_serve.images import encode_png
from export.to_onnx import export
from training.data import load_data
from training.data.image_data import as_float
from training.fast_path import FastPath
from training.loop import train
from training.networks import HubClassifier
from training.recipes.classifier import RECIPES
from training.recipes.teacher import TEACHERS
from training.train_teacher import train_teacher


@contextmanager
def served(folder):
    """Yield the address of `dra-serve serve FOLDER` in a process of its own."""
    command = [sys.executable, "-m", "dra_serve.cli", "serve", str(folder), "--port", "0", "--no-ui"]
    env = {**os.environ, "OMP_NUM_THREADS": "1"}
    process = subprocess.Popen(command, stderr=subprocess.PIPE, text=True, env=env)
    deadline = threading.Timer(60, process.kill)  # ends the wait for a server that never listens
    deadline.start()
    try:
        lines = []
        for line in process.stderr:
            lines.append(line)
            if found := re.search(r"http://127\.0\.0\.1:\d+", line):
                break
        else:
            pytest.fail("the server did not start:\n" + "".join(lines))
        threading.Thread(target=process.stderr.read, daemon=True).start()
        yield found.group()
    finally:
        deadline.cancel()
        process.terminate()
        process.wait(timeout=40)


def test_digits_from_teacher_to_service(tmp_path):
    data = load_data("digits")
    small = replace(TEACHERS["digits-teacher"], channels=(16, 32), images=64 * 200, warmup=20)
    teacher = train_teacher(small, data, tmp_path / "teacher")
    recipe = replace(RECIPES["digits-dra"], epochs=6, teacher=str(teacher), eps=0.1, alpha=0.07)
    folder = train(recipe, data, tmp_path / "run", path=FastPath())
    export(folder)

    model = dra_serve.load(str(folder))
    x, y = as_float(data.test_x).numpy(), data.test_y.numpy()
    logits = model.logits(x)
    network = HubClassifier.from_pretrained(folder).eval()
    with torch.no_grad():
        np.testing.assert_allclose(logits, network(torch.from_numpy(x)).numpy(), rtol=1e-3, atol=1e-4)
    clean = (logits.argmax(1) == y).mean()
    assert clean > 0.7

    result = dra_serve.attack(model, x, y, "pgd", eps=recipe.eps, steps=10)
    assert abs(result.x_adv - x).max() <= recipe.eps + 1e-6
    robust = 1 - result.success.mean()
    assert 0.15 < robust < clean

    fooled = int(np.flatnonzero(result.success & (logits.argmax(1) == y))[0])
    png = encode_png(data.test_x[fooled].permute(1, 2, 0).numpy())
    with served(folder) as url:
        client = dra_serve.Client(url)
        answer = client.predict(png)
        attacked = client.attack(png, eps=recipe.eps, steps=10)
    assert answer.label == data.classes[y[fooled]]
    (served_attack,) = attacked.results
    assert served_attack.clean.label == answer.label
    assert 0 < served_attack.linf <= recipe.eps + 1e-6
    assert served_attack.pixels.shape == (8, 8, 1)
    pixels = served_attack.pixels.transpose(2, 0, 1)[None].astype(np.float32) / 255
    assert served_attack.adversarial.label == data.classes[model.logits(pixels).argmax()]
    assert served_attack.success == (served_attack.adversarial.label != answer.label)
