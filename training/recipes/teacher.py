"""What a teacher run is: data, not code."""

from dataclasses import dataclass


@dataclass(frozen=True, kw_only=True)
class TeacherRecipe:
    """A class-unconditional diffusion model, trained with EDM's loss at a constant rate under an average.

    The rate has no schedule, so that the run has no length: it can stop, be probed and go on at any time.
    """

    name: str
    data: str
    patch: int  # 2: the network sees 12 channels at half the resolution
    channels: tuple[int, ...]  # of each resolution
    layers: int = 1  # residual blocks a resolution
    norm_groups: int = 8
    sigma_mean: float = -0.9  # of ln sigma in training
    sigma_std: float = 1.1
    batch: int = 64
    rate: float = 1e-3  # AdamW
    warmup: int = 500  # steps
    weight_decay: float = 0.0
    clip: float = 1.0  # gradient norm
    ema: float = 0.999
    images: int = 20_000_000  # presented by this run, over all sittings
    start: str | None = None  # a teacher's folder whose weights the run begins with
    seed: int = 0


TEACHERS = {
    recipe.name: recipe
    for recipe in (
        TeacherRecipe(
            name="digits-teacher", data="digits", patch=1, channels=(32, 64), ema=0.99, images=60_000
        ),
        TeacherRecipe(name="cifar10-tiny-teacher", data="cifar10", patch=2, channels=(32, 64, 144)),
    )
}
