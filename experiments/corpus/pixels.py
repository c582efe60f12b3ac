#!/usr/bin/env python3
"""Icons of 16 x 16 pixels as bytes: a second modality for byte-level models.

    pixels.py FOLDER... > pixels.txt

Every PNG of 16 x 16 pixels below the folders becomes one document: 256 bytes, a grey value each, row
by row, on white, then a line break. Needs nothing but Python: the PNG decoder is below (no interlacing).
Icons are dealt out by a fixed stride, so that the end of the file is a mixed sample.
"""
import os
import struct
import sys
import zlib

CHANNELS = {0: 1, 2: 3, 3: 1, 4: 2, 6: 4}  # of a colour type


def unfilter(data, rows, stride, step):
    """The five filters of PNG, undone in place, row by row."""
    out, above = [], bytearray(stride)
    for r in range(rows):
        kind, line = data[r * (stride + 1)], bytearray(data[r * (stride + 1) + 1:(r + 1) * (stride + 1)])
        for i in range(stride):
            a = line[i - step] if i >= step else 0
            b, c = above[i], above[i - step] if i >= step else 0
            if kind == 1:
                line[i] = (line[i] + a) & 255
            elif kind == 2:
                line[i] = (line[i] + b) & 255
            elif kind == 3:
                line[i] = (line[i] + (a + b) // 2) & 255
            elif kind == 4:
                p = a + b - c
                pa, pb, pc = abs(p - a), abs(p - b), abs(p - c)
                line[i] = (line[i] + (a if pa <= pb and pa <= pc else b if pb <= pc else c)) & 255
        out.append(line)
        above = line
    return out


def chunks_of(png):
    at = 8
    while at + 8 <= len(png):
        length, kind = struct.unpack(">I4s", png[at:at + 8])
        yield kind, png[at + 8:at + 8 + length]
        at += 12 + length


def grey(colour, alpha):
    """Luma of a colour over white, in whole numbers."""
    red, green, blue = colour
    luma = (299 * red + 587 * green + 114 * blue) // 1000
    return (luma * alpha + 255 * (255 - alpha)) // 255


def decode(png):
    """256 grey values, or None if the picture is not one of ours."""
    if png[:8] != b"\x89PNG\r\n\x1a\n":
        return None
    parts, idat = {}, b""
    for kind, body in chunks_of(png):
        if kind == b"IDAT":
            idat += body
        else:
            parts.setdefault(kind, body)
    width, height, depth, colour, _, _, interlaced = struct.unpack(">IIBBBBB", parts[b"IHDR"])
    if (width, height) != (16, 16) or interlaced or (depth != 8 and colour != 3):
        return None
    bits = depth * CHANNELS[colour]
    rows = unfilter(zlib.decompress(idat), height, (width * bits + 7) // 8, max(1, bits // 8))
    palette, see_through = parts.get(b"PLTE", b""), parts.get(b"tRNS", b"")
    values = bytearray()
    for line in rows:
        for x in range(width):
            if colour == 3:
                index = (line[x * depth // 8] >> (8 - depth - x * depth % 8)) & ((1 << depth) - 1)
                alpha = see_through[index] if index < len(see_through) else 255
                values.append(grey(palette[3 * index:3 * index + 3], alpha))
                continue
            pixel = line[x * CHANNELS[colour]:(x + 1) * CHANNELS[colour]]
            alpha = pixel[-1] if colour in (4, 6) else 255
            values.append(grey(pixel[:3] if colour in (2, 6) else [pixel[0]] * 3, alpha))
    return bytes(values)


def main():
    pictures = []
    for folder in sys.argv[1:]:
        for place, folders, files in os.walk(folder):
            folders.sort()
            for name in sorted(files):
                path = os.path.join(place, name)
                if "/16x16/" in path and name.endswith(".png") and not os.path.islink(path):
                    with open(path, "rb") as file:
                        picture = decode(file.read())
                    if picture is not None and picture not in pictures:
                        pictures.append(picture)
    if not pictures:
        sys.exit("pixels.py: no PNG of 16 x 16 pixels in " + " ".join(sys.argv[1:]))
    stride = int(len(pictures) * 0.618)
    while any(stride % p == 0 and len(pictures) % p == 0 for p in range(2, stride + 1)):
        stride += 1
    for i in range(len(pictures)):
        sys.stdout.buffer.write(b"<|endoftext|>\n" if i else b"")
        sys.stdout.buffer.write(pictures[i * stride % len(pictures)] + b"\n")


main()
