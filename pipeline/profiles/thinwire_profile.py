"""Cost profiles of pipeline models in Python: the file that thinwire/pipeline/profile.hpp describes.

Needs nothing but the standard library. Units are seconds and bytes; docs/pipeline.md explains the
fields.
"""

import dataclasses
import json
import math

FORMAT, VERSION = "thinwire-profile", 1


@dataclasses.dataclass
class Linear:
    """Seconds of a micro-batch of b samples: fixed + b * per_sample."""

    fixed: float = 0.0
    per_sample: float = 0.0


@dataclasses.dataclass
class Link:
    """Seconds of a message of b bytes: alpha + b * beta."""

    alpha: float = 0.0
    beta: float = 0.0


@dataclasses.dataclass
class Layer:
    name: str
    forward: Linear
    input_gradient: Linear
    weight_gradient: Linear
    optimizer_seconds: float
    activation_bytes: float
    weight_activation_bytes: float
    output_bytes: float
    parameter_bytes: float
    optimizer_bytes: float


@dataclasses.dataclass
class Rank:
    speed: float = 1.0
    memory_cap: float = 0.0


@dataclasses.dataclass
class Lane:
    source: int
    destination: int
    alpha: float
    beta: float


@dataclasses.dataclass
class Profile:
    model: str
    machine: str
    dtype: str
    made_by: str
    sizes: dict
    layers: list
    ranks: list = dataclasses.field(default_factory=list)
    link: Link = dataclasses.field(default_factory=Link)
    lanes: list = dataclasses.field(default_factory=list)
    replicas: int = 1
    reduce_link: Link = dataclasses.field(default_factory=Link)

    def save(self, path):
        require_finite(dataclasses.asdict(self), "profile")
        with open(path, "w", encoding="utf-8") as file:
            json.dump({"format": FORMAT, "version": VERSION, **dataclasses.asdict(self)}, file, indent=1)
            file.write("\n")


def load(path):
    """Raises ValueError that names the field for another format or version, unknown or missing fields."""
    with open(path, encoding="utf-8") as file:
        fields = json.load(file)
    if fields.pop("format", None) != FORMAT:
        raise ValueError(f"{path}: not a {FORMAT}")
    version = fields.pop("version", None)
    if version != VERSION:
        raise ValueError(f"{path}: version {version}, but this module reads version {VERSION}")
    profile = build(Profile, fields, "profile")
    for layer in profile.layers:
        for kind in ("forward", "input_gradient", "weight_gradient"):
            setattr(layer, kind, build(Linear, getattr(layer, kind), f"{layer.name}.{kind}"))
    require_finite(dataclasses.asdict(profile), "profile")
    return profile


def build(kind, fields, where):
    """A dataclass from a dict; Profile's own lists and links become dataclasses too."""
    known = {field.name for field in dataclasses.fields(kind)}
    if set(fields) != known:
        raise ValueError(f"{where}: missing {sorted(known - set(fields))}, unknown {sorted(set(fields) - known)}")
    if kind is Profile:
        parts = {"layers": Layer, "ranks": Rank, "lanes": Lane}
        lists = {name: [build(part, f, f"{where}.{name}") for f in fields[name]] for name, part in parts.items()}
        links = {name: build(Link, fields[name], f"{where}.{name}") for name in ("link", "reduce_link")}
        fields = {**fields, **lists, **links}
    return kind(**fields)


def require_finite(value, where):
    """Every number of a profile is finite and >= 0."""
    if isinstance(value, dict):
        for name, part in value.items():
            require_finite(part, f"{where}.{name}")
    elif isinstance(value, list):
        for index, part in enumerate(value):
            require_finite(part, f"{where}[{index}]")
    elif isinstance(value, (int, float)) and not (math.isfinite(value) and value >= 0):
        raise ValueError(f"{where} is {value}, but every number is finite and >= 0")
