"""The peer of `npm run bench`: the same training and denoising steps in PyTorch, one at a time, when asked.

Speaks JSON lines. In: {"unet", "batch", "threads", "lr", "clip", "alphaBar", "rows", "trials"} once, then {"job": "train" | "denoise"} for
each repetition. Out: {"version", "parameters", "settings"}, then {"seconds", "cpuSeconds", "memoryBytes"} for each. Each job first tries
every setting (memory layout, kind of attention) and keeps the fastest.
"""
import gc
import json
import sys
import time

import torch
from unet import Attention, UNet


def answer(message):
    print(json.dumps(message), flush=True)


def status_bytes(field):
    """A field of /proc/self/status in bytes; None where there is no such file."""
    try:
        with open("/proc/self/status") as lines:
            return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(field + ":"))
    except (OSError, StopIteration):
        return None


def reset_peak_memory():
    gc.collect()
    try:
        with open("/proc/self/clear_refs", "w") as file:
            file.write("5")
    except OSError:
        pass


def adam(model, lr):
    """Adam in its fastest form: fused for CPUs since PyTorch 2.4."""
    version = tuple(int(part) for part in torch.__version__.split(".")[:2])
    how = {"fused": True} if version >= (2, 4) else {"foreach": True}
    return torch.optim.Adam(model.parameters(), lr=lr, **how), next(iter(how))


def serve(request):
    unet, batch = request["unet"], request["batch"]
    torch.set_num_threads(request["threads"])
    torch.manual_seed(0)
    before_bytes = status_bytes("VmRSS")
    model = UNet(unet)
    shape = (unet["inChannels"], unet["height"], unet["width"])
    images = torch.randint(0, 256, (256,) + shape, dtype=torch.uint8)
    alpha_bar = torch.tensor(request["alphaBar"], dtype=torch.float32)
    state = {"setting": None, "layout": torch.contiguous_format, "optimizer": None}

    def train():
        x = (images[torch.randint(0, len(images), (batch,))].float() / 127.5 - 1).contiguous(memory_format=state["layout"])
        t = torch.randint(0, len(alpha_bar), (batch,))
        signal = alpha_bar[t][:, None, None, None]
        noise = torch.randn_like(x)
        loss = ((model(signal.sqrt() * x + (1 - signal).sqrt() * noise, t) - noise) ** 2).mean()
        state["optimizer"].zero_grad(set_to_none=True)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(model.parameters(), request["clip"])
        state["optimizer"].step()
        loss.item()

    def denoise():
        with torch.inference_mode():
            x = torch.randn((batch,) + shape).contiguous(memory_format=state["layout"])
            times = torch.linspace(len(alpha_bar) - 1, 0, request["rows"] + 1).long()
            for now, then in zip(times[:-1], times[1:]):
                a, b = alpha_bar[now], alpha_bar[then]
                eps = model(x, now.expand(batch))
                x0 = ((x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
                eps = (x - a.sqrt() * x0) / (1 - a).sqrt()
                x = b.sqrt() * x0 + (1 - b).sqrt() * eps

    jobs = {"train": train, "denoise": denoise}

    def run(job):
        """One repetition: wall and processor seconds."""
        cpu, wall = time.process_time(), time.perf_counter()
        jobs[job]()
        return time.perf_counter() - wall, time.process_time() - cpu

    def prepare(job, layout, attention):
        """Brings the model into a setting and runs the job once, untimed."""
        if state["setting"] == (job, layout, attention):
            return
        state["optimizer"] = None
        model.zero_grad(set_to_none=True)
        state["layout"] = torch.channels_last if layout == "channels_last" else torch.contiguous_format
        model.to(memory_format=state["layout"])
        model.train(job == "train")
        Attention.fused = attention == "sdpa"
        if job == "train":
            state["optimizer"], state["adam"] = adam(model, request["lr"])
        jobs[job]()
        state["setting"] = (job, layout, attention)

    def seconds_of(job, setting):
        prepare(job, *setting)
        return min(run(job)[0] for _ in range(request["trials"]))

    attentions = ["bmm"] + (["sdpa"] if hasattr(torch.nn.functional, "scaled_dot_product_attention") else [])
    settings = [(layout, attention) for layout in ("contiguous", "channels_last") for attention in attentions]
    fastest = {job: min(settings, key=lambda setting: seconds_of(job, setting)) for job in ("denoise", "train")}
    prepare("train", *fastest["train"])
    reset_peak_memory()
    named = {job: " ".join(setting) for job, setting in fastest.items()}
    named["train"] += " adam:" + state["adam"]
    parameters = sum(parameter.numel() for parameter in model.parameters())
    answer({"version": torch.__version__, "parameters": parameters, "settings": named})

    for line in sys.stdin:
        job = json.loads(line)["job"]
        prepare(job, *fastest[job])
        seconds, cpu_seconds = run(job)
        peak = status_bytes("VmHWM")
        grown = peak - before_bytes if peak is not None and before_bytes is not None else None
        answer({"seconds": seconds, "cpuSeconds": cpu_seconds, "memoryBytes": grown})


if __name__ == "__main__":
    serve(json.loads(sys.stdin.readline()))
