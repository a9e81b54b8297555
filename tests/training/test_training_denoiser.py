"""EDM and DDPM as one denoiser, against closed forms and diffusers' own scheduler; teachers on disk."""

import json
from types import SimpleNamespace

import pytest
import torch
from diffusers import DDPMPipeline, DDPMScheduler, UNet2DModel
from torch import nn

from dra_serve.errors import BadRequest, DataMissing
from training.data.image_data import as_float
from training.teachers.denoiser import Denoiser, edm_loss, lognormal_sigma
from training.teachers.features import FeatureChoice, pooled
from training.teachers.folder import load_teacher, save_teacher, teacher_sha256
from training.teachers.preconditioning import DDPM, EDM, VelocityDDPM

SIGMA = torch.tensor([0.01, 0.1, 0.5, 2.0, 50.0])


class Answers(nn.Module):
    """A network that gives a known answer, and keeps what it was asked."""

    config = SimpleNamespace(in_channels=3)

    def __init__(self, answer):
        super().__init__()
        self.answer = answer

    def forward(self, x, time):
        self.x, self.time = x, time
        return SimpleNamespace(sample=self.answer)


@pytest.fixture
def pair():
    rng = torch.Generator().manual_seed(0)
    clean = torch.rand(5, 3, 8, 8, generator=rng) * 2 - 1
    return clean, torch.randn(clean.shape, generator=rng)


def each(values):
    return values.view(-1, 1, 1, 1)


def test_edm_loss_of_the_perfect_network_is_zero(pair):
    clean, noise = pair
    x, edm = clean + each(SIGMA) * noise, EDM()
    perfect = (clean - each(edm.c_skip(SIGMA)) * x) / each(edm.c_out(SIGMA))
    denoiser = Denoiser(Answers(perfect), edm)
    assert edm_loss(denoiser, clean, SIGMA, noise).max() < 1e-10
    torch.testing.assert_close(denoiser(x, SIGMA), clean, atol=1e-4, rtol=1e-4)


def test_edm_loss_is_equation_8(pair):
    """lambda(sigma) ||D - clean||^2 with lambda = (sigma^2 + sd^2) / (sigma sd)^2."""
    clean, noise = pair
    denoiser = Denoiser(Answers(torch.sin(clean)), EDM())
    error = denoiser(clean + each(SIGMA) * noise, SIGMA) - clean
    expected = (SIGMA**2 + 0.25) / (SIGMA * 0.5) ** 2 * error.square().mean((1, 2, 3))
    torch.testing.assert_close(edm_loss(denoiser, clean, SIGMA, noise), expected, rtol=1e-3, atol=1e-4)


def test_silent_edm_network_leaves_the_skip(make_teacher, pair):
    denoiser = make_teacher()
    nn.init.zeros_(denoiser.unet.conv_out.weight)
    nn.init.zeros_(denoiser.unet.conv_out.bias)
    x = pair[0]
    torch.testing.assert_close(denoiser(x, SIGMA), each(0.25 / (SIGMA**2 + 0.25)) * x)


def test_edm_feeds_unit_variance(pair):
    """Images of deviation 0.5 under any noise come in with deviation 1."""
    noise = pair[1]
    clean = 0.5 * torch.randn(noise.shape, generator=torch.Generator().manual_seed(1))
    unet = Answers(torch.zeros_like(clean))
    Denoiser(unet, EDM())(clean + each(SIGMA) * noise, SIGMA)
    torch.testing.assert_close(unet.x.flatten(1).std(1), torch.ones(5), atol=0.15, rtol=0)


def test_ddpm_network_meets_what_its_scheduler_made(pair):
    """A network that knows the noise denoises perfectly, and sees diffusers' own x_t and t."""
    clean, noise = pair
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    abar = scheduler.alphas_cumprod
    ddpm = DDPM(sigmas=((1 - abar) / abar).sqrt())
    steps = torch.tensor([0, 10, 100, 500, 900])
    unet = Answers(noise)
    sigma = ddpm.sigmas[steps]
    denoised = Denoiser(unet, ddpm)(clean + each(sigma) * noise, sigma)
    torch.testing.assert_close(denoised, clean, atol=1e-4, rtol=1e-4)
    torch.testing.assert_close(unet.x, scheduler.add_noise(clean, noise, steps), atol=1e-5, rtol=1e-5)
    assert unet.time.tolist() == steps.tolist()


def test_patches_are_folded_and_unfolded(make_teacher, pair):
    teacher = make_teacher()
    assert teacher.patch == 2
    assert teacher.unet.config.in_channels == 12
    assert teacher(pair[0], SIGMA).shape == pair[0].shape


def test_noise_levels_are_lognormal():
    sigma = lognormal_sigma(20_000, mean=-0.9, std=1.1, rng=torch.Generator().manual_seed(0))
    assert abs(sigma.log().mean() + 0.9) < 0.05
    assert abs(sigma.log().std() - 1.1) < 0.05


def test_teacher_comes_back_from_its_folder(make_teacher, tmp_path, pair):
    teacher = make_teacher()
    save_teacher(teacher, tmp_path)
    again = load_teacher(tmp_path)
    assert teacher_sha256(again) == teacher_sha256(teacher)
    assert again.preconditioning == EDM()
    assert torch.equal(again(pair[0], SIGMA), teacher(pair[0], SIGMA))


def test_half_precision_copy_is_read_as_float32(make_teacher, tmp_path, pair):
    teacher = make_teacher()
    save_teacher(teacher, tmp_path, dtype=torch.float16)
    again = load_teacher(tmp_path)
    assert {p.dtype for p in again.parameters()} == {torch.float32}
    torch.testing.assert_close(again(pair[0], SIGMA), teacher(pair[0], SIGMA), atol=0.02, rtol=0.02)


@pytest.fixture
def pipeline():
    """A pipeline like google/ddpm-cifar10-32: 3 channels in, attention, an epsilon-predicting DDPM."""
    torch.manual_seed(0)
    unet = UNet2DModel(
        sample_size=8,
        block_out_channels=(8, 16),
        layers_per_block=1,
        down_block_types=("DownBlock2D", "AttnDownBlock2D"),
        up_block_types=("AttnUpBlock2D", "UpBlock2D"),
        norm_num_groups=4,
        attention_head_dim=None,
    )
    return DDPMPipeline(unet, DDPMScheduler())


def test_ddpm_pipeline_folder_is_a_teacher(pipeline, data, tmp_path):
    pipeline.save_pretrained(tmp_path)
    teacher = load_teacher(tmp_path)
    assert isinstance(teacher.preconditioning, DDPM)
    assert teacher.patch == 1
    choice = FeatureChoice(blocks=("up_blocks.0",), sigma=0.1, grid=1, draws=1)
    z = pooled(teacher, as_float(data.train_x[:4]), torch.arange(4), choice)
    assert z.shape == (4, 16)
    assert z.isfinite().all()
    assert z.std(0).min() > 0


def move_up(folder, *names):
    """Lay a pipeline folder out as google/ddpm-cifar10-32 is on the Hub: without subfolders."""
    for file in [file for name in names for file in (folder / name).iterdir()]:
        file.rename(folder / file.name)
    for name in names:
        (folder / name).rmdir()


@pytest.mark.parametrize("names", [("unet", "scheduler"), ("unet",), ("scheduler",)])
def test_teacher_at_the_root_of_its_folder_is_the_same(pipeline, tmp_path, names):
    pipeline.save_pretrained(tmp_path)
    before = load_teacher(tmp_path)
    move_up(tmp_path, *names)
    assert teacher_sha256(load_teacher(tmp_path)) == teacher_sha256(before)


def test_velocity_network_meets_what_its_scheduler_made(pair):
    """A network that gives diffusers' own velocity denoises perfectly."""
    clean, noise = pair
    scheduler = DDPMScheduler(num_train_timesteps=1000)
    abar = scheduler.alphas_cumprod
    ddpm = VelocityDDPM(sigmas=((1 - abar) / abar).sqrt())
    steps = torch.tensor([0, 10, 100, 500, 900])
    sigma = ddpm.sigmas[steps]
    denoiser = Denoiser(Answers(scheduler.get_velocity(clean, noise, steps)), ddpm)
    torch.testing.assert_close(denoiser(clean + each(sigma) * noise, sigma), clean, atol=1e-4, rtol=1e-4)


def test_prediction_type_is_taken_from_the_scheduler(pipeline, tmp_path):
    pipeline.scheduler = DDPMScheduler(prediction_type="v_prediction")
    pipeline.save_pretrained(tmp_path)
    assert isinstance(load_teacher(tmp_path).preconditioning, VelocityDDPM)


def rewrite(path, **changes):
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


@pytest.mark.parametrize(
    ("file", "changes", "field", "words"),
    [
        ("scheduler/scheduler_config.json", {"prediction_type": "sample"}, "prediction_type", "v_prediction"),
        (
            "scheduler/scheduler_config.json",
            {"_class_name": "EDMEulerScheduler", "prediction_type": "v_prediction"},
            "prediction_type",
            "epsilon",
        ),
        ("unet/config.json", {"_class_name": "UNet2DConditionModel"}, "teacher", "UNet2DModel"),
        ("unet/config.json", {"in_channels": 4}, "teacher", "4 input channels"),
        ("unet/config.json", {"out_channels": 6}, "teacher", "6 output channels"),
        ("unet/config.json", {"num_class_embeds": 10}, "teacher", "class"),
    ],
)
def test_model_that_is_no_teacher_is_refused_by_what_it_is(pipeline, tmp_path, file, changes, field, words):
    pipeline.save_pretrained(tmp_path)
    rewrite(tmp_path / file, **changes)
    with pytest.raises(BadRequest, match=words) as error:
        load_teacher(tmp_path)
    assert error.value.field == field


def test_scheduler_without_betas_is_refused(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    path = tmp_path / "scheduler" / "scheduler_config.json"
    path.write_text(json.dumps({"_class_name": "ScoreSdeVeScheduler", "sigma_max": 1348.0}))
    with pytest.raises(BadRequest, match=r"scheduler: got ScoreSdeVeScheduler; allowed: one with betas"):
        load_teacher(tmp_path)


def test_teacher_of_grey_images_is_refused_for_colour_ones(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    with pytest.raises(BadRequest, match="teacher: got 3 input channels; allowed: 1 times a square"):
        load_teacher(tmp_path, image_channels=1)


@pytest.mark.parametrize(
    ("file", "keeps"),
    [
        ("scheduler/scheduler_config.json", None),
        ("scheduler/scheduler_config.json", 30),
        ("unet/config.json", 30),
        ("unet/diffusion_pytorch_model.safetensors", None),
        ("unet/diffusion_pytorch_model.safetensors", 1000),
        ("unet/diffusion_pytorch_model.safetensors", -10),
    ],
)
def test_missing_or_broken_file_is_named(pipeline, tmp_path, file, keeps):
    pipeline.save_pretrained(tmp_path)
    path = tmp_path / file
    path.unlink() if keeps is None else path.write_bytes(path.read_bytes()[:keeps])
    with pytest.raises(DataMissing, match=path.name):
        load_teacher(tmp_path)


def test_weights_of_another_network_are_refused(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path)
    rewrite(tmp_path / "unet" / "config.json", block_out_channels=[8, 24])
    with pytest.raises(DataMissing, match=r"diffusion_pytorch_model\.safetensors of this network"):
        load_teacher(tmp_path)


def test_pickled_weights_are_refused(pipeline, tmp_path):
    pipeline.save_pretrained(tmp_path, safe_serialization=False)
    assert list(tmp_path.rglob("*.bin"))
    with pytest.raises(DataMissing, match="safetensors"):
        load_teacher(tmp_path)


def test_missing_teacher_says_how_to_get_one(tmp_path):
    with pytest.raises(DataMissing, match=r"train_teacher\.py"):
        load_teacher(tmp_path / "nowhere")
