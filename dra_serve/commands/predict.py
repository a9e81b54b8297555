"""`dra-serve predict`: what a model sees in images."""

from typing import Annotated

import typer
from rich.markup import escape

from dra_serve.commands.images import Images, Model, Resize, read_image
from dra_serve.commands.output import Json, new_table, print_json, print_table
from dra_serve.source_options import Source, takes_source

TopK = Annotated[int, typer.Option(min=1, help="How many classes, best first.")]


@takes_source
def predict(
    model: Model,
    images: Images,
    source: Source,
    top_k: TopK = 5,
    resize: Resize = False,
    as_json: Json = False,
) -> None:
    """Classify images."""
    from dra_serve.service.predicting import predict_pixels
    from dra_serve.service.schemas.predict import PredictionOut
    from dra_serve.service.words import percent

    classifier = source.load(model)
    pixels = [read_image(image, classifier, resize) for image in images]
    predictions = predict_pixels(classifier, pixels, top_k=top_k)
    if as_json:
        rows = [
            {"source": str(image), **PredictionOut.of(prediction).model_dump()}
            for image, prediction in zip(images, predictions, strict=True)
        ]
        print_json({"model": classifier.name, "predictions": rows})
        return
    table = new_table(classifier.name, "image", "prediction", "score", "then")
    for image, prediction in zip(images, predictions, strict=True):
        others = ", ".join(f"{label} {percent(score)}" for label, score in prediction.top[1:])
        table.add_row(*map(escape, (image.name, prediction.label, percent(prediction.score), others)))
    print_table(table)
