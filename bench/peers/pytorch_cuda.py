"""The peer of `npm run bench` on a GPU: the same training and denoising steps in PyTorch, bf16, channels_last, many steps a request.

Speaks JSON lines. In: {"unet", "mode", "batch", "lr", "clip", "emaDecay", "alphaBar"} once, then {"job": "train", "steps"},
{"job": "denoise", "batch", "steps"} or {"job": "ceiling"}. Out: {"parameters", "settings"}, then {"seconds", "memoryBytes"} or
{"tflops", "gbytesPerSecond"}. A job's first request also prepares it (compiles, records), so its time does not count.

Modes: eager; graph (the eager step recorded as one CUDA graph); compile (torch.compile mode max-autotune, the step recorded as one CUDA graph;
where that fails, max-autotune with its own CUDA graphs and an eager optimizer).
"""
import json
import os
import sys
import time

import torch
from torch.nn import functional as F
from unet import Attention, UNet

DEVICE = "cuda"
IMAGES = 4096


def answer(message):
    print(json.dumps(message), file=ANSWERS, flush=True)


def timed(step, steps):
    torch.cuda.synchronize()
    start = time.perf_counter()
    for _ in range(steps):
        step()
    torch.cuda.synchronize()
    return time.perf_counter() - start


def recorded(step):
    """The step as one CUDA graph; returns its replay."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(4):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


class Trainer:
    """Resident 8-bit images, noising, forward under autocast, loss, backward, clipping, fused Adam, moving average."""

    def __init__(self, request):
        self.request, self.mode = request, request["mode"]
        unet = request["unet"]
        self.model = UNet(unet).to(DEVICE, memory_format=torch.channels_last).train()
        self.ema = [p.detach().clone() for p in self.model.parameters()]
        self.shape = (unet["inChannels"], unet["height"], unet["width"])
        images = torch.randint(0, 256, (IMAGES,) + self.shape, dtype=torch.uint8, device=DEVICE)
        self.images = images.contiguous(memory_format=torch.channels_last)
        self.alpha_bar = torch.tensor(request["alphaBar"], dtype=torch.float32, device=DEVICE)
        self.settings = self.mode
        self.run = None

    def step_of(self, model, in_graph):
        optimizer = torch.optim.Adam(self.model.parameters(), lr=self.request["lr"], fused=True, capturable=in_graph)
        batch, decay = self.request["batch"], self.request["emaDecay"]
        parameters = list(self.model.parameters())

        def step():
            x = self.images[torch.randint(0, IMAGES, (batch,), device=DEVICE)].float() / 127.5 - 1
            t = torch.randint(0, len(self.alpha_bar), (batch,), device=DEVICE)
            signal = self.alpha_bar[t][:, None, None, None]
            noise = torch.randn_like(x)
            noisy = signal.sqrt() * x + (1 - signal).sqrt() * noise
            with torch.autocast(DEVICE, torch.bfloat16):
                predicted = model(noisy, t)
            loss = F.mse_loss(predicted.float(), noise)
            optimizer.zero_grad(set_to_none=not in_graph)
            loss.backward()
            torch.nn.utils.clip_grad_norm_(parameters, self.request["clip"], foreach=True)
            optimizer.step()
            torch._foreach_lerp_(self.ema, [p.detach() for p in parameters], 1 - decay)

        return step

    def prepare(self):
        if self.mode == "eager":
            self.run = self.step_of(self.model, False)
        elif self.mode == "graph":
            self.run = recorded(self.step_of(self.model, True))
            self.settings = "eager in one CUDA graph"
        else:
            try:
                self.run = recorded(self.step_of(torch.compile(self.model, mode="max-autotune-no-cudagraphs", dynamic=False), True))
                self.settings = "torch.compile max-autotune in one CUDA graph"
            except Exception as error:
                print("the compiled step cannot be recorded: %r" % error, file=sys.stderr)
                torch._dynamo.reset()
                self.run = self.step_of(torch.compile(self.model, mode="max-autotune", dynamic=False), False)
                self.settings = "torch.compile max-autotune, its own CUDA graphs"
        timed(self.run, 3)
        if self.mode == "eager":  # a replay allocates nothing: there the peak is that of the steps before the recording
            torch.cuda.reset_peak_memory_stats()


class Denoiser:
    """A copy of the network in bf16, and the DDIM update in float32."""

    def __init__(self, trainer, batch):
        unet = UNet(trainer.request["unet"]).to(DEVICE, torch.bfloat16, memory_format=torch.channels_last).eval()
        unet.load_state_dict(trainer.model.state_dict())
        model = torch.compile(unet, mode="max-autotune-no-cudagraphs", dynamic=False) if trainer.mode == "compile" else unet
        self.x = torch.randn((batch,) + trainer.shape, device=DEVICE).contiguous(memory_format=torch.channels_last)
        self.times = torch.linspace(len(trainer.alpha_bar) - 1, 0, 51, device=DEVICE).long()
        # Of one element each: an index without dimensions is fetched by the host, which waits for the GPU and cannot be recorded.
        self.now, self.then, self.at = self.times[0:1].clone(), self.times[1:2].clone(), 0
        expanded = torch.empty(batch, dtype=torch.long, device=DEVICE)

        def update():
            a, b = trainer.alpha_bar[self.now], trainer.alpha_bar[self.then]
            expanded.copy_(self.now.expand(batch))
            eps = model(self.x.to(torch.bfloat16), expanded).float()
            x0 = ((self.x - (1 - a).sqrt() * eps) / a.sqrt()).clamp(-1, 1)
            eps = (self.x - a.sqrt() * x0) / (1 - a).sqrt()
            self.x.copy_(b.sqrt() * x0 + (1 - b).sqrt() * eps)

        with torch.no_grad():
            update()
            self.update = update if trainer.mode == "eager" else recorded(update)

    def run(self):
        with torch.no_grad():
            self.now.copy_(self.times[self.at : self.at + 1])
            self.then.copy_(self.times[self.at + 1 : self.at + 2])
            self.update()
        self.at = (self.at + 1) % 50


def ceiling():
    """A large product in bf16 and a large copy: the best of ten."""
    a, b = (torch.randn(8192, 8192, device=DEVICE, dtype=torch.bfloat16) for _ in range(2))
    source = torch.randn(1 << 28, device=DEVICE)
    target = torch.empty_like(source)
    results = []
    for work in (lambda: a @ b, lambda: target.copy_(source)):
        timed(work, 3)
        results.append(min(timed(work, 10) / 10 for _ in range(10)))
    return {"tflops": 2 * 8192**3 / results[0] / 1e12, "gbytesPerSecond": 2 * 4 * (1 << 28) / results[1] / 1e9}


def serve(request):
    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = True
    Attention.fused = True
    trainer = Trainer(request)
    denoisers = {}
    parameters = sum(p.numel() for p in trainer.model.parameters())
    answer({"parameters": parameters, "settings": "bf16 autocast, channels_last, SDPA, fused Adam, cudnn.benchmark"})
    for line in sys.stdin:
        asked = json.loads(line)
        if asked["job"] == "ceiling":
            answer(ceiling())
            continue
        if asked["job"] == "train":
            if trainer.run is None:
                trainer.prepare()
            job = trainer.run
        else:
            batch = asked["batch"]
            if batch not in denoisers:
                denoisers[batch] = Denoiser(trainer, batch)
                timed(denoisers[batch].run, 3)
            job = denoisers[batch].run
        seconds = timed(job, asked["steps"])
        answer({"seconds": seconds, "settings": trainer.settings, "memoryBytes": torch.cuda.max_memory_allocated()})


if __name__ == "__main__":
    # What libraries print is not an answer.
    ANSWERS = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    serve(json.loads(sys.stdin.readline()))
