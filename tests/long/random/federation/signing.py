"""Keys and signatures of devices: Ed25519 as in RFC 8032, section 5.1, in plain Python, since servers check what is signed.

Fit for a test and for nothing else: it is slow, and what it takes tells of the key.
"""
import base64
import hashlib
import json

P, ORDER = 2**255 - 19, 2**252 + 27742317777372353535851937790883648493
D = -121665 * pow(121666, -1, P) % P


def plus(one, other):
    """Points as (x, y, z, t) with x/z, y/z, t = xy/z."""
    a, b = (one[1] - one[0]) * (other[1] - other[0]) % P, (one[1] + one[0]) * (other[1] + other[0]) % P
    c, d = 2 * one[3] * other[3] * D % P, 2 * one[2] * other[2] % P
    e, f, g, h = b - a, d - c, d + c, b + a
    return e * f % P, g * h % P, f * g % P, e * h % P


def times(number, point):
    found = (0, 1, 1, 0)
    while number:
        if number & 1:
            found = plus(found, point)
        point, number = plus(point, point), number >> 1
    return found


def base_point():
    y = 4 * pow(5, -1, P) % P
    square = (y * y - 1) * pow(D * y * y + 1, -1, P) % P
    x = pow(square, (P + 3) // 8, P)
    if (x * x - square) % P:
        x = x * pow(2, (P - 1) // 4, P) % P
    x = P - x if x & 1 else x
    return x, y, 1, x * y % P


BASE = base_point()


def packed(point):
    inverse = pow(point[2], -1, P)
    x, y = point[0] * inverse % P, point[1] * inverse % P
    return (y | (x & 1) << 255).to_bytes(32, "little")


def unpadded(data):
    return base64.b64encode(data).decode().rstrip("=")


def canonical(value):
    bare = {name: item for name, item in value.items() if name not in ("signatures", "unsigned")}
    return json.dumps(bare, sort_keys=True, separators=(",", ":"), ensure_ascii=False).encode()


class Key:
    def __init__(self, seed):
        digest = hashlib.sha512(seed).digest()
        self.secret = int.from_bytes(digest[:32], "little") & (1 << 254) - 8 | 1 << 254
        self.prefix, self.public = digest[32:], packed(times(self.secret, BASE))
        self.name = unpadded(self.public)

    def signs(self, message):
        nonce = int.from_bytes(hashlib.sha512(self.prefix + message).digest(), "little") % ORDER
        commitment = packed(times(nonce, BASE))
        challenge = int.from_bytes(hashlib.sha512(commitment + self.public + message).digest(), "little") % ORDER
        return commitment + ((nonce + challenge * self.secret) % ORDER).to_bytes(32, "little")

    def signed(self, value, user_id, name=None):
        """The value with no signature but this key's, by the name of the device or the key's own."""
        bare = {field: item for field, item in value.items() if field != "signatures"}
        return {**bare, "signatures": {user_id: {f"ed25519:{name or self.name}": unpadded(self.signs(canonical(bare)))}}}
