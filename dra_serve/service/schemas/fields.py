"""Fields that more than one endpoint takes."""

from typing import Annotated

from pydantic import BaseModel, ConfigDict, Field

MAX_TOP_K = 1_000

Name = Annotated[str, Field(min_length=1, max_length=100)]
TopK = Annotated[int, Field(ge=1, le=MAX_TOP_K, description="How many classes in `top`, best first.")]
Resize = Annotated[bool, Field(description="Scale an image of another size; otherwise it is an error.")]


class Fields(BaseModel):
    """The fields of a request; others are errors."""

    model_config = ConfigDict(extra="forbid")
