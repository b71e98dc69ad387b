"""Java's .properties files."""


def lines(properties):
    # A backslash would escape what follows.
    return [f"{name}={value}".replace("\\", "\\\\") for name, value in properties.items()]
