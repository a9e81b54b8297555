"""Every check by name, in the order in which they are run and read."""

from collections.abc import Callable
from dataclasses import dataclass

from dra_serve.evaluation.diagnosis import answers, attacked, gradients
from dra_serve.evaluation.diagnosis.case import Case, Measured


@dataclass(frozen=True)
class Check:
    """One question about a model. name: also its anchor in docs/evaluation.md.

    meaning: what a fault means for a robust accuracy, and what to do, in a sentence or two.
    cheap: a few passes over a few images, so that every evaluation can afford it.
    """

    name: str
    question: str
    meaning: str
    measure: Callable[[Case], Measured]
    needs_gradient: bool = False
    cheap: bool = True


CHECKS: tuple[Check, ...] = (
    Check(
        "clean-at-chance",
        "knows these images",
        "The model does not know these images, so robustness on them says nothing. Compare the order of the"
        " classes, and the input range, channel order and normalisation the model was trained with.",
        answers.clean_at_chance,
    ),
    Check(
        "writes-input",
        "leaves its input alone",
        "The model changes the images it is given, so an attack goes on from other images than it made. "
        "Copy before normalising in place.",
        answers.writes_input,
    ),
    Check(
        "randomised",
        "answers the same twice",
        "An attack follows the noise of one pass, and the verdict is drawn in another: the figure is luck. "
        "Turn the randomness off (eval mode), or average over many passes in attack and verdict.",
        answers.randomised,
    ),
    Check(
        "batch-dependent",
        "answers the same alone",
        "An image's verdict hangs on its neighbours, so another batch size is another figure. Batch "
        "normalisation left in training mode does this.",
        answers.batch_dependent,
    ),
    Check(
        "optimises-to-answer",
        "answers in one pass",
        "The model takes gradients while it answers, so it adapts to each image, an adversarial one too, and "
        "an attack that follows one pass is not the attack it must withstand. It needs one made for it.",
        answers.optimises_to_answer,
    ),
    Check(
        "probabilities",
        "gives logits",
        "A softmax has been applied: losses apply another, and gradients fade where the model is sure. "
        "Evaluate the logits before it.",
        answers.probabilities,
    ),
    Check(
        "reduced-precision",
        "answers in float32",
        "Rounding hides small changes from an attack, which then reads steps and plateaus for robustness. "
        "Evaluate in float32, or differentiate past the rounding and add a black-box attack.",
        answers.reduced_precision,
    ),
    Check(
        "no-gradient",
        "has a gradient",
        "Only black-box attacks can run; a white-box attacker may well find more, so the figure is no more "
        "than an upper bound.",
        gradients.no_gradient,
    ),
    Check(
        "non-finite",
        "gives finite numbers",
        "Where a logit or a gradient is no number, nothing can be attacked and nothing should be counted. "
        "Look for a division or a logarithm without a floor.",
        gradients.non_finite,
    ),
    Check(
        "zero-gradients",
        "gradient is not zero",
        "An attack stands still on these images and they count as robust. If only ce is zero it is "
        "saturated: use dlr. Otherwise differentiate past whatever stops the gradient, or attack without "
        "one.",
        gradients.zero_gradients,
        needs_gradient=True,
    ),
    Check(
        "wrong-gradient",
        "gradient is the slope",
        "The loss does not move as its gradient says, so white-box attacks walk in a wrong direction. "
        "Rounding, masking or randomness in the forward pass, or an error in the backward one, does this.",
        gradients.wrong_gradient,
        needs_gradient=True,
    ),
    Check(
        "straight-through",
        "gradient is a derivative",
        "The model rounds, and the gradient is an estimate that takes the rounding for the identity (BPDA). "
        "Attack without gradients too: the suite standard ends with Square.",
        gradients.straight_through,
        needs_gradient=True,
    ),
    Check(
        "graphs-disagree",
        "both graphs agree",
        "The gradient is of another model than the one that answers. Export the two again, from the same "
        "weights.",
        gradients.graphs_disagree,
        needs_gradient=True,
    ),
    Check(
        "eps-zero-differs",
        "radius 0 changes nothing",
        "The robust accuracy at radius 0 is not the clean one: attack and verdict do not see the same "
        "model, or not the same images.",
        attacked.eps_zero_differs,
        needs_gradient=True,
        cheap=False,
    ),
    Check(
        "loss-does-not-rise",
        "attack raises the loss",
        "Gradient attacks make no headway on these images, and their survival proves nothing. See what the "
        "gradient checks say, and attack with dlr and without gradients.",
        attacked.loss_does_not_rise,
        needs_gradient=True,
        cheap=False,
    ),
    Check(
        "one-step-wins",
        "many steps beat one",
        "Many small steps are the stronger attack wherever gradients mean anything: the gradient is masked "
        "near the images. Attack from random starts, with larger steps, and without gradients.",
        attacked.one_step_wins,
        needs_gradient=True,
        cheap=False,
    ),
    Check(
        "steps-matter",
        "more steps change little",
        "The attack has not settled: a larger budget gives another robust accuracy. Raise the steps until "
        "the figure stands still, or use the suite standard.",
        attacked.steps_matter,
        needs_gradient=True,
        cheap=False,
    ),
    Check(
        "unbounded-attack-fails",
        "falls at a huge radius",
        "An attack that may turn any image into any other must always win. One that does not is broken, and"
        " so is its figure at a small radius.",
        attacked.unbounded_attack_fails,
        needs_gradient=True,
        cheap=False,
    ),
    Check(
        "black-box-wins",
        "Square finds nothing more",
        "Asking for answers alone beats following gradients, so gradients are masked and the white-box "
        "figure is too high. Give Square more queries, and find what masks the gradient.",
        attacked.black_box_wins,
        needs_gradient=True,
        cheap=False,
    ),
)
