"""What users do, and how often. Each deed is a function of the life and a user; what a server refuses is refused by right."""
import bisect
import itertools

ALL = []


def deed(weight):
    def add(function):
        ALL.append((weight, function))
        return function

    return add


def choose(rng):
    """A deed by its weight."""
    sums = list(itertools.accumulate(weight for weight, _ in ALL))
    return ALL[bisect.bisect(sums, rng.random() * sums[-1])][1]
