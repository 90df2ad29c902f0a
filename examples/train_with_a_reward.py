"""Fine-tune the embedded model with a reward of your own: python examples/train_with_a_reward.py [folder] [iterations].

A few hundred iterations take some minutes on a laptop; the default, three, shows that everything runs.
"""

import sys
from itertools import pairwise

import torch

from realignkit import ReFLTrainer, Reward, default_registry

COLOURS = {"red": (0.9, 0.1, 0.1), "green": (0.1, 0.7, 0.2), "blue": (0.1, 0.2, 0.9), "yellow": (0.9, 0.9, 0.1)}


class HasColours(Reward):
    """How near some pixel comes to each colour that the prompt names: 1 where all of them are there."""

    margin = 1.0

    def __call__(self, images, prompts):
        return torch.stack([self.one(image, prompt) for image, prompt in zip(images, prompts, strict=True)])

    def one(self, image, prompt):
        wanted = [rgb for name, rgb in COLOURS.items() if name in prompt.split()]
        if not wanted:
            return image.sum() * 0 + 1  # nothing to ask for; still differentiable
        targets = torch.tensor(wanted, device=image.device)[:, :, None]  # colours x 3 x 1
        apart = (image.flatten(1)[None] - targets).square().sum(1)  # colours x pixels
        return 1 - apart.sort(dim=1).values[:, :100].mean()  # the hundred nearest pixels of each


def main(folder: str, iterations: int) -> None:
    registry = default_registry()
    nouns = ("book", "cup", "car", "chair", "dog", "boat")
    pairs = [(a, b) for a in COLOURS for b in COLOURS if a != b]
    prompts = [f"a {a} {noun} and a {b} {other}" for a, b in pairs for noun, other in pairwise(nouns)]
    trainer = ReFLTrainer(
        registry.create("generator", "micro").pipeline(),
        HasColours(),
        {
            "iterations": iterations,
            "batch_size": 2,
            # A rollout of ten steps, where the model is sampled with 25.
            "refl": {"solver": "dpmpp", "num_inference_steps": 10},
            "reward_weight": "auto",  # the reward's gradient ten times as long as that of the denoising loss
            "gradient_ratio": 10.0,
            "learning_rate": 3e-5,
            "prior_images": 4 if iterations < 10 else 100,
            "validation": {
                "every": max(iterations // 10, 1),
                "prompts": 2 if iterations < 10 else 32,
                "steps": 10,
                "patience": 4,
            },
        },
        prompts=prompts,
        # Counts objects in their colours, and shares nothing with the reward.
        judge=registry.create("metric", "micro_oracle"),
        sampling={"guidance_scale": 7.5},
        out=folder,
        on_message=print,
    )
    result = trainer.train()
    best = result.best
    print(f"{result.status} after {result.iterations} iterations; best: iteration {best.iteration}")
    print("better than the model as it came" if result.improved else "no better than before: do not use it")
    print(f'Use it: realignkit run "a red cup and a blue dog" --lora {folder}')


if __name__ == "__main__":
    main(sys.argv[1] if len(sys.argv) > 1 else "runs/example", int(sys.argv[2]) if len(sys.argv) > 2 else 3)
