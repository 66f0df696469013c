"""What users do, and how often. A deed is chosen and made up in order, from the seed; it gives a label and what to do, which is
done beside other deeds: (label, function)."""
ALL = []


def deed(weight):
    def add(function):
        ALL.append((weight, function))
        return function

    return add


def choose(life):
    weights = [weight for weight, _ in ALL]
    return life.rng.choices([function for _, function in ALL], weights)[0](life)


def asks(device, method, path, body=None):
    """The usual deed: one request. Its answer matters only in what all servers show in the end."""
    return f"{device.user.id} {method} {path}", lambda: device.ask(method, path, body)
