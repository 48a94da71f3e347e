// One result on the page: the photograph, the classes or the confidence over it, marks where two results differ.

const CONFIDENCE_COLORS = [[68, 1, 84], [59, 82, 139], [33, 145, 140], [94, 201, 98], [253, 231, 37]]; // viridis

/** Pack a color into the 32 bits of a pixel of ImageData (little-endian: alpha, blue, green, red). */
const pack = ([red, green, blue], alpha = 255) => ((alpha << 24) | (blue << 16) | (green << 8) | red) >>> 0;

/** The colors of probabilities 0 to 255, interpolated between CONFIDENCE_COLORS. */
const confidencePalette = Uint32Array.from({length: 256}, (_, value) => {
  const position = value / 255 * (CONFIDENCE_COLORS.length - 1);
  const index = Math.min(Math.floor(position), CONFIDENCE_COLORS.length - 2);
  return pack(CONFIDENCE_COLORS[index].map((low, channel) =>
    Math.round(low + (CONFIDENCE_COLORS[index + 1][channel] - low) * (position - index))));
});

/**
 * Split the server's answer into a header and its parts: 4 bytes with the length of the header, the header as JSON with
 * the lengths of the parts, and the parts (see encode_view in view.py).
 */
export function parseResult(buffer) {
  const headerLength = new DataView(buffer).getUint32(0, true);
  const result = JSON.parse(new TextDecoder().decode(new Uint8Array(buffer, 4, headerLength)));
  let offset = 4 + headerLength;
  for (const [name, length] of result.parts) {
    result[name] = buffer.slice(offset, offset += length);
  }
  result.labels = result.classes.length > 256 ? new Uint16Array(result.labels) : new Uint8Array(result.labels);
  result.probability = result.probability && new Uint8Array(result.probability);
  return result;
}

/** Find the pixels at which two results name different classes; their lists of classes may differ. */
export function differingPixels(first, second) {
  const firstIndex = new Map(first.classes.map((name, index) => [name, index]));
  const translated = second.classes.map(name => firstIndex.get(name) ?? -1);
  const differs = new Uint8Array(first.labels.length);
  let count = 0;
  for (let i = 0; i < differs.length; i++) {
    differs[i] = first.labels[i] !== translated[second.labels[i]];
    count += differs[i];
  }
  return {differs, fraction: count / differs.length};
}

export class Panel {
  /** Show a result over the photograph, an ImageBitmap, in a figure of the page. */
  constructor(figure, result, photo) {
    Object.assign(this, {figure, result});
    this.picture = figure.querySelector(".picture");
    this.cross = figure.querySelector(".cross");
    const canvases = [this.photo, this.overlay, this.marks] = figure.querySelectorAll("canvas");
    for (const canvas of canvases) {
      [canvas.width, canvas.height] = [result.view_width, result.view_height];
    }
    this.photo.getContext("2d").drawImage(photo, 0, 0, result.view_width, result.view_height);
    figure.querySelector("strong").textContent = result.title;
    figure.querySelector(".time").textContent = result.time;
    figure.querySelector(".downloads").setAttribute("aria-label", `Download ${result.title}`);
    const help = "Arrow keys move a cross that tells the class; with shift, far.";
    this.picture.setAttribute("aria-label", `${result.title}. ${help}`);
  }

  /** Paint the classes that are not hidden, outlined, or their confidence. */
  paint(view, hidden) {
    const {labels, probability, classes, colors, view_width: width} = this.result;
    const context = this.overlay.getContext("2d");
    const image = context.createImageData(this.overlay.width, this.overlay.height);
    const pixels = new Uint32Array(image.data.buffer);
    const fills = classes.map((name, index) => hidden.has(name) ? 0 : pack(colors[index]));
    const outlines = fills.map(fill => fill && pack([255, 255, 255]));
    for (let i = 0; i < pixels.length; i++) {
      const label = labels[i];
      if (view === "confidence") {
        pixels[i] = fills[label] && confidencePalette[probability[i]];
      } else {
        const right = (i + 1) % width ? labels[i + 1] : label; // not the first pixel of the next row
        const inside = label === right && label === (labels[i + width] ?? label);
        pixels[i] = (inside ? fills : outlines)[label];
      }
    }
    context.putImageData(image, 0, 0);
  }

  /** Mark pixels by black and white stripes, which are seen on any color; null removes the marks. */
  mark(differs) {
    const context = this.marks.getContext("2d");
    const {width, height} = this.marks;
    const image = context.createImageData(width, height);
    const pixels = new Uint32Array(image.data.buffer);
    const stripe = Math.max(2, Math.round(width / 240));
    const colors = [pack([0, 0, 0]), pack([255, 255, 255])];
    for (let y = 0, i = 0; differs && y < height; y++) {
      for (let x = 0; x < width; x++, i++) {
        if (differs[i]) pixels[i] = colors[Math.floor((x + y) / stripe) & 1];
      }
    }
    context.putImageData(image, 0, 0);
  }

  /** Describe the class at a point, given as fractions of width and height, and move the cross to it. */
  describe({x, y}) {
    const {labels, probability, classes, view_width: width, view_height: height} = this.result;
    const index = Math.min(height - 1, Math.floor(y * height)) * width + Math.min(width - 1, Math.floor(x * width));
    this.cross.hidden = false;
    this.cross.style.left = `${100 * x}%`;
    this.cross.style.top = `${100 * y}%`;
    return classes[labels[index]] + (probability ? ` ${Math.round(probability[index] / 2.55)} %` : "");
  }

  /** Draw photograph and overlay as they are shown, without marks, into a PNG. */
  async overlayImage(opacity) {
    const canvas = new OffscreenCanvas(this.photo.width, this.photo.height);
    const context = canvas.getContext("2d");
    context.drawImage(this.photo, 0, 0);
    context.globalAlpha = opacity;
    context.drawImage(this.overlay, 0, 0);
    return canvas.convertToBlob({type: "image/png"});
  }
}
