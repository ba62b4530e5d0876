"""Resemblyzer's LSTM on voices that espeak-ng speaks."""

from __future__ import annotations

import io
import shutil
import subprocess
import wave
from typing import Any

import numpy as np
import torch
from evidence_models import Subject, taking_part
from evidence_sequences import NO_PICTURES, PAIRS, RATE, Spans, folder_of
from torch import Tensor, nn
from torch.nn import functional as F

from relprop.composites import AttnLRP, Composite
from relprop.rules import EpsilonRule
from relprop.targets import Similarity

VOICES = ("en-us+m1", "en-gb+f2", "en-us+m5", "en-gb+f4", "en-gb-scotland+m3", "en-us+f3")
FRAMES = 80
"""Of 10 ms; what is explained of each utterance."""


class Voice(nn.Module):
    """Resemblyzer's encoder: mel frames (B, T, 40) -> an embedding of the voice (B, 256)."""

    def __init__(self) -> None:
        super().__init__()
        self.lstm = nn.LSTM(40, 256, 3, batch_first=True)
        self.linear = nn.Linear(256, 256)

    def forward(self, mels: Tensor) -> Tensor:
        _, (hidden, _) = self.lstm(mels)
        embedded: Tensor = F.relu(self.linear(hidden[-1]))
        return embedded


def resemblyzer(tiny: bool) -> Subject:
    if shutil.which("espeak-ng") is None:
        raise ImportError("there is no espeak-ng, which speaks: apt-get install espeak-ng")
    kept = torch.load(folder_of("resemblyzer") / "pretrained.pt", map_location="cpu", weights_only=True)["model_state"]
    model = Voice().eval()
    model.load_state_dict({name: value for name, value in kept.items() if name.startswith(("lstm", "linear"))})
    texts = [first for first, _ in PAIRS[: 2 if tiny else 5]]
    mels = torch.stack([torch.stack([mel(spoken(text, voice)) for text in texts]) for voice in VOICES])
    with torch.no_grad():
        embedded = F.normalize(model(mels.flatten(0, 1)), dim=1).unflatten(0, mels.shape[:2])
    others = (embedded.sum(1, keepdim=True) - embedded).flatten(0, 1)
    x = mels.flatten(0, 1)
    alike = F.cosine_similarity(embedded.flatten(0, 1), others)
    about = (
        f"Resemblyzer's LSTM with its weights, on {len(x)} utterances of {FRAMES / 100:.1f} s, of {len(VOICES)} "
        f"voices of espeak-ng with "
        f"{len(texts)} sentences each. Explained is the similarity to the same voice's other sentences "
        f"({float(alike.min()):.2f} to "
        f"{float(alike.max()):.2f}). Spans of 4 frames become silence."
    )
    composites = [
        AttnLRP(),
        Composite(EpsilonRule()),
        Composite(EpsilonRule(1e-2)),
        AttnLRP(gate="signal"),
        AttnLRP(attention="half"),
    ]
    composites += [AttnLRP(gamma_linear=gamma) for gamma in (0.05, 0.25)]
    options: dict[str, Any] = {"groups": Spans(size=4), "fill": 0.0, "steps": 10}
    methods = taking_part(model, composites, NO_PICTURES)
    target = Similarity(others)
    return Subject("Resemblyzer", about, model, x, target, methods, options=options, why=WHY)


WHY = (
    "A larger ε, which damps what nearly cancels in gates and sums, and a little γ are better on these three recurrent "
    "layers: one network, for which nothing was chosen. `relprop tune` finds what suits yours."
)
"""What the page says where `recommended` is not among the first; looked into by hand."""


def spoken(text: str, voice: str) -> Tensor:
    """What a voice of espeak-ng says, (samples,), at 16 kHz, as loud as all others."""
    said = subprocess.run(["espeak-ng", "-v", voice, "--stdout", text], capture_output=True, check=True).stdout
    with wave.open(io.BytesIO(said)) as file:
        rate, data = file.getframerate(), file.readframes(file.getnframes())
    sound = torch.from_numpy(np.frombuffer(data, dtype=np.int16).astype(np.float32) / 32768)
    length = round(len(sound) * RATE / rate)
    sound = F.interpolate(sound[None, None], size=length, mode="linear", antialias=False)[0, 0]
    return sound * (10 ** (-30 / 20) / sound.square().mean().sqrt())


def mel(sound: Tensor) -> Tensor:
    """Power in 40 mel bands, (T, 40), of windows of 25 ms every 10 ms, from the middle."""
    spectrum = torch.stft(sound, 400, 160, window=torch.hann_window(400), return_complex=True).abs().square()
    bands = (filters() @ spectrum).T
    start = max(0, (len(bands) - FRAMES) // 2)
    return bands[start : start + FRAMES]


def filters(bands: int = 40, bins: int = 201) -> Tensor:
    """Slaney's triangles, (bands, bins), each of area 1, as librosa has them."""
    edges = _hertz(torch.linspace(0, float(_mel(torch.tensor(RATE / 2))), bands + 2))
    at = torch.linspace(0, RATE / 2, bins)
    up = (at - edges[:-2, None]) / (edges[1:-1] - edges[:-2])[:, None]
    down = (edges[2:, None] - at) / (edges[2:] - edges[1:-1])[:, None]
    return up.minimum(down).clamp(min=0) * (2 / (edges[2:] - edges[:-2]))[:, None]


def _mel(hertz: Tensor) -> Tensor:
    step = torch.log(torch.tensor(6.4)) / 27
    return torch.where(hertz < 1000, 3 * hertz / 200, 15 + torch.log(hertz.clamp(min=1) / 1000) / step)


def _hertz(mels: Tensor) -> Tensor:
    step = torch.log(torch.tensor(6.4)) / 27
    return torch.where(mels < 15, 200 * mels / 3, 1000 * torch.exp(step * (mels - 15)))
