"""How far results are from exact ones."""


def relative_errors(found, exact):
    """Norm of the error of each tensor relative to that of the exact one, which is in float64."""
    return [((a.double() - b).norm() / b.norm()).item() for a, b in zip(found, exact, strict=True)]
