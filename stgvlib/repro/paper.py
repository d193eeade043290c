"""The paper's printed tables as data (arXiv 2604.10910), and where its averages do not follow from its own rows.

Values are what is printed. `numbers` lists them one by one, `averages` gives the mean of the parts of an average beside
what is printed. Nothing here ever enters one of our columns.
"""

from dataclasses import dataclass

SOURCE = "STGV, arXiv 2604.10910"

# Table I: model -> (training hours, decoding FPS, PSNR, MS-SSIM); budget in million parameters
TABLE_1 = {
    "uvg": {
        "parameters": 5.8,
        "SIREN": (8.0, 28, 26.27, 0.9197),
        "NeRV": (5.0, 80, 33.40, 0.9494),
        "E-NeRV": (4.0, 46, 35.09, 0.9712),
        "2DGS": (4.5, 1800, 31.98, 0.9537),
        "D2GV": (2.2, 310, 34.31, 0.9635),
        "STGV": (1.7, 460, 35.29, 0.9600),
    },
    "davis": {
        "parameters": 3.3,
        "SIREN": (5.8, 34, 21.58, 0.8121),
        "NeRV": (4.3, 85, 26.92, 0.9013),
        "E-NeRV": (2.5, 62, 28.71, 0.9288),
        "2DGS": (4.0, 1902, 30.16, 0.9491),
        "D2GV": (1.5, 308, 31.09, 0.9611),
        "STGV": (1.3, 433, 31.36, 0.9613),
    },
}

# Table II, Bunny at 3.0M: model -> (decoding FPS, PSNR, MS-SSIM). SIREN's PSNR and MS-SSIM repeat its UVG row.
TABLE_2 = {
    "SIREN": (29, 26.27, 0.9197),
    "NeRV": (323, 34.2, 0.9770),
    "E-NeRV": (63, 37.06, 0.9887),
    "HNeRV": (96, 38.00, 0.9880),
    "GaussianVideo": (475, 34.8, 0.9790),
    "GSVR": (816, 35.65, None),
    "D2GV": (403, 37.26, 0.9880),
    "STGV": (625, 37.93, 0.9900),
}

# Table III, inpainting, PSNR of Bee, Swan, Cows, Bosphorus, Beauty, average
TABLE_3 = {
    "Baseline": (27.08, 26.25, 24.47, 22.67, 29.13, 25.92),
    "D2GV": (40.32, 29.89, 29.30, 33.91, 35.49, 33.78),
    "STGV": (41.85, 30.21, 30.05, 34.01, 36.41, 34.51),
}

# Table IV, ablation: variant -> (PSNR on Bunny, PSNR on UVG)
TABLE_4 = {
    "V1": (37.26, 34.93),
    "V2": (37.81, 35.01),
    "V3": (37.64, 35.19),
    "V4": (37.33, 35.10),
    "Ours": (37.93, 35.29),
}

# Table V, encodings: encoding -> (PSNR on Bunny, PSNR on UVG)
TABLE_5 = {"positional": (37.81, 35.01), "plane-based": (37.55, 34.00), "spatio-temporal": (37.93, 35.29)}

# Table VI, denoising on HoneyBee: method -> PSNR under white, black, salt & pepper noise, average
TABLE_6 = {
    "Baseline": (26.94, 28.18, 28.35, 27.82),
    "Gaussian": (35.64, 36.08, 36.46, 36.06),
    "Uniform": (34.35, 34.35, 34.60, 34.43),
    "Median": (34.73, 38.07, 38.15, 36.98),
    "Minimum": (18.64, 14.3, 18.75, 18.75),
    "Maximum": (18.86, 23.4, 15.15, 19.14),
    "D2GV": (40.14, 39.44, 40.50, 40.03),
    "STGV": (40.19, 39.60, 40.38, 40.06),
}

# Tables VII and VIII: method -> (PSNR, MS-SSIM) a video, the printed average last
UVG_VIDEOS = ("Beauty", "Bosphorus", "HoneyBee", "Jockey", "ReadySteadyGo", "ShakeNDry", "YachtRide")
TABLE_7 = {
    "NeRV": (
        (35.24, 33.95, 39.88, 34.07, 27.00, 34.98, 28.67, 33.40),
        (0.9446, 0.9567, 0.9924, 0.9509, 0.9324, 0.9667, 0.9212, 0.9494),
    ),
    "E-NeRV": (
        (35.82, 36.01, 39.06, 36.09, 30.30, 36.53, 31.34, 35.09),
        (0.9508, 0.9760, 0.9937, 0.9710, 0.9689, 0.9790, 0.9590, 0.9712),
    ),
    "2DGS": (
        (33.71, 33.09, 32.42, 34.01, 28.10, 30.12, 31.34, 31.98),
        (0.9419, 0.9599, 0.9921, 0.9540, 0.9410, 0.9460, 0.9407, 0.9537),
    ),
    "D2GV": (
        (35.89, 34.42, 40.62, 35.54, 28.97, 35.91, 29.79, 34.31),
        (0.9510, 0.9705, 0.9940, 0.9688, 0.9380, 0.9792, 0.9428, 0.9635),
    ),
    "STGV": (
        (36.68, 34.31, 41.87, 36.04, 29.63, 37.13, 31.38, 35.29),
        (0.9571, 0.9505, 0.9943, 0.9597, 0.9400, 0.9764, 0.9420, 0.9600),
    ),
}
DAVIS_VIDEOS = ("dance-twirl", "camel", "bmx-trees", "blackswan", "cows", "boat")
TABLE_8 = {
    "NeRV": (
        (28.10, 24.85, 27.04, 28.12, 22.74, 31.69, 26.92),
        (0.9678, 0.8860, 0.8897, 0.9061, 0.8099, 0.9482, 0.9013),
    ),
    "E-NeRV": (
        (30.28, 26.58, 29.27, 30.51, 22.65, 32.94, 28.71),
        (0.9861, 0.9293, 0.9325, 0.9502, 0.8102, 0.9645, 0.9288),
    ),
    "2DGS": (
        (30.51, 29.71, 29.01, 30.27, 29.01, 33.01, 30.16),
        (0.9801, 0.9431, 0.9221, 0.9299, 0.9641, 0.9554, 0.9491),
    ),
    "D2GV": (
        (31.38, 30.89, 30.78, 30.42, 29.79, 34.31, 30.26),
        (0.9835, 0.9734, 0.9340, 0.9371, 0.9700, 0.9680, 0.9611),
    ),
    "STGV": (
        (31.14, 30.65, 30.44, 30.33, 30.12, 35.47, 31.36),
        (0.9814, 0.9630, 0.9367, 0.9382, 0.9731, 0.9756, 0.9613),
    ),
}


UVG, DAVIS = (tuple(f"uvg/{v}" for v in UVG_VIDEOS), tuple(f"davis/{v}" for v in DAVIS_VIDEOS))
INPAINTED = ("uvg/HoneyBee", "davis/blackswan", "davis/cows", "uvg/Bosphorus", "uvg/Beauty")  # columns of Table III
NOISES = ("white", "black", "salt_pepper")  # columns of Table VI
HARDWARE = ("training, h", "FPS")  # measures that the paper's RTX 3090 decides
DETAILS = {"I": ("VII", "VIII"), "IV": ("VII",), "V": ("VII",)}  # where the rows are that a table's averages are of
FULL = ("STGV", "Ours", "spatio-temporal")  # names of the paper's full method


@dataclass(frozen=True)
class Number:
    """One printed number."""

    table: str
    row: str  # a system or variant, as the paper calls it
    measure: str
    of: tuple[str, ...]  # dataset, or task/dataset; of several: their average
    value: float

    @property
    def title(self) -> str:
        """What it was measured on, in words."""
        if len(self.of) == 1:
            return self.of[0]
        return {UVG: "UVG, average", DAVIS: "DAVIS, average"}.get(self.of, f"average of {len(self.of)}")


def numbers() -> list[Number]:
    """The 287 numbers of Tables I to VIII, without parameter counts and names.

    Examples:
        >>> from stgvlib.repro.paper import numbers
        >>> len(numbers())
        287
        >>> first = numbers()[0]
        >>> first.table, first.row, first.measure, first.title, first.value
        ('I', 'SIREN', 'training, h', 'UVG, average', 8.0)
    """
    found: list[Number] = []

    def add(table: str, row: str, measures: tuple[str, ...], of: tuple[str, ...], values: tuple) -> None:
        found.extend(Number(table, row, m, of, v) for m, v in zip(measures, values, strict=True) if v is not None)

    def add_each(table: str, row: str, measure: str, each: tuple[str, ...], values: tuple) -> None:
        """A number for each, and last their average."""
        found.extend(Number(table, row, measure, of, v) for of, v in zip([*((e,) for e in each), each], values))

    for group, each in (("uvg", UVG), ("davis", DAVIS)):
        for row, values in TABLE_1[group].items():
            if row != "parameters":
                add("I", row, (*HARDWARE, "PSNR", "MS-SSIM"), each, values)
    for row, values in TABLE_2.items():
        add("II", row, ("FPS", "PSNR", "MS-SSIM"), ("bunny",), values)
    for row, values in TABLE_3.items():
        add_each("III", row, "PSNR", tuple(f"inpaint_random/{video}" for video in INPAINTED), values)
    for table, rows in (("IV", TABLE_4), ("V", TABLE_5)):
        for row, (bunny, uvg) in rows.items():
            found += [Number(table, row, "PSNR", ("bunny",), bunny), Number(table, row, "PSNR", UVG, uvg)]
    for row, values in TABLE_6.items():
        add_each("VI", row, "PSNR", tuple(f"noise_{noise}/uvg/HoneyBee" for noise in NOISES), values)
    for table, rows, each in (("VII", TABLE_7, UVG), ("VIII", TABLE_8, DAVIS)):
        for row, measures in rows.items():
            for measure, values in zip(("PSNR", "MS-SSIM"), measures):
                add_each(table, row, measure, each, values)
    return found


def averages() -> list[tuple[Number, float, str]]:
    """Each printed average whose parts are printed too, their mean, and the table that has them."""
    single = {(n.table, _method(n.row), n.measure, n.of): n.value for n in numbers() if len(n.of) == 1}
    found = []
    for number in numbers():
        for table in DETAILS.get(number.table, (number.table,)) if len(number.of) > 1 else ():
            parts = [single.get((table, _method(number.row), number.measure, (of,))) for of in number.of]
            if None not in parts:
                found.append((number, sum(parts) / len(parts), table))
    return found


def _method(row: str) -> str:
    return FULL[0] if row in FULL else row
