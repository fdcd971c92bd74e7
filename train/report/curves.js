// Numbers for curves: decoding, smoothing, which of many points a width can show, scales and their ticks.

// A curve as the page holds it: its steps are written as differences, which are short.
function decode(curve) {
  const points = { x: summed(curve.steps), y: curve.values };
  const means = curve.means ? { x: summed(curve.meanSteps), y: curve.means } : points;
  return { run: curve.run, heldOut: curve.heldOut, points, means, isThinned: Boolean(curve.means) };
}

function summed(differences) {
  let total = 0;
  return differences.map((difference) => (total += difference));
}

// The exponential mean over `width` steps, whatever the distance between points: the first points are not
// drawn to zero, and a gap stays one.
function smooth({ x, y }, width) {
  if (!width) return { x, y };
  let sum = 0, weight = 0, last = null;
  const smoothed = y.map((value, i) => {
    if (value === null) return null;
    const kept = last === null ? 0 : Math.exp((last - x[i]) / width);
    last = x[i];
    sum = sum * kept + value * (1 - kept || 1);
    weight = weight * kept + (1 - kept || 1);
    return sum / weight;
  });
  return { x, y: smoothed };
}

// The number of the first place whose step is at least `step`.
function placeOf(x, step) {
  let low = 0, high = x.length;
  while (low < high) {
    const middle = (low + high) >> 1;
    if (x[middle] < step) low = middle + 1;
    else high = middle;
  }
  return low;
}

function nearest(x, step) {
  const place = placeOf(x, step);
  if (place === 0) return 0;
  return place === x.length || step - x[place - 1] <= x[place] - step ? place - 1 : place;
}

// The places to draw between two steps, one more on each side; of more than two for each pixel, only the
// least and the greatest of a pixel and the gaps.
function visiblePlaces({ x, y }, [from, to], width) {
  const begin = Math.max(0, placeOf(x, from) - 1), end = Math.min(x.length, placeOf(x, to + 1) + 1);
  const places = [];
  if (end - begin <= 2 * width) {
    for (let i = begin; i < end; i++) places.push(i);
    return places;
  }
  const perPixel = (to - from) / width;
  for (let i = begin; i < end; ) {
    const pixel = Math.floor((x[i] - from) / perPixel);
    let least = i, greatest = i, gap = -1;
    for (; i < end && Math.floor((x[i] - from) / perPixel) === pixel; i++) {
      if (y[i] === null) gap = i;
      else {
        if (y[least] === null || y[i] < y[least]) least = i;
        if (y[greatest] === null || y[i] > y[greatest]) greatest = i;
      }
    }
    places.push(...[...new Set([least, greatest, ...(gap < 0 ? [] : [gap])])].sort((a, b) => a - b));
  }
  return places;
}

// The least and greatest value of each pixel, as unbroken stretches; null where a line can show every point.
function areasOf({ x, y }, [from, to], width, isDrawn) {
  const begin = Math.max(0, placeOf(x, from) - 1), end = Math.min(x.length, placeOf(x, to + 1) + 1);
  if (end - begin <= 2 * width) return null;
  const perPixel = (to - from) / width, areas = [];
  let area = [];
  for (let i = begin; i < end; ) {
    const pixel = Math.floor((x[i] - from) / perPixel), step = from + (pixel + 0.5) * perPixel;
    let low = Infinity, high = -Infinity;
    for (; i < end && Math.floor((x[i] - from) / perPixel) === pixel; i++) {
      if (!isDrawn(y[i])) continue;
      low = Math.min(low, y[i]);
      high = Math.max(high, y[i]);
    }
    if (low <= high) area.push({ step, low, high });
    else if (area.length) areas.push(area.splice(0));
  }
  return area.length ? [...areas, area] : areas;
}

function makeScale([low, high], [start, end], isLogarithmic) {
  const bend = isLogarithmic ? Math.log10 : (value) => value;
  const [first, last] = [bend(low), bend(high)];
  const at = (value) => start + ((bend(value) - first) / (last - first)) * (end - start);
  const invert = (place) => {
    const bent = first + ((place - start) / (end - start)) * (last - first);
    return isLogarithmic ? 10 ** bent : bent;
  };
  return { at, invert, low, high, isLogarithmic };
}

// About `count` values between the ends: multiples of 1, 2 or 5 times a power of ten.
function ticksOf({ low, high, isLogarithmic }, count) {
  if (isLogarithmic && high / low >= 8) return powerTicks(low, high, count);
  const rough = (high - low) / count, power = 10 ** Math.floor(Math.log10(rough));
  const step = [1, 2, 5, 10].map((factor) => factor * power).find((size) => size >= rough * 0.999);
  if (!(step > 0) || !Number.isFinite(step)) return [low, high];
  // Counted from the first, since numbers of 1e17 do not grow by 1.
  const first = Math.ceil(low / step - 1e-9), number = Math.floor((high - first * step) / step + 1e-9) + 1;
  return Array.from({ length: Math.min(number, 2 * count + 2) }, (_, i) => {
    return Number(((first + i) * step).toPrecision(12));
  });
}

function powerTicks(low, high, count) {
  const first = Math.floor(Math.log10(low)), last = Math.ceil(Math.log10(high));
  for (const factors of [[1, 2, 5], [1, 3], [1]]) {
    const ticks = [];
    for (let power = first; power <= last; power++) {
      for (const factor of factors) {
        const tick = Number((factor * 10 ** power).toPrecision(3));
        if (tick >= low && tick <= high) ticks.push(tick);
      }
    }
    if (ticks.length <= count + 2) return ticks;
    if (factors.length === 1) return ticks.filter((_, i) => i % Math.ceil(ticks.length / count) === 0);
  }
}

const PREFIXES = [[1e12, "T"], [1e9, "B"], [1e6, "M"], [1e3, "k"]];

// A tick's value: 20000 -> 20k, 0.0003 -> 3e-4.
function shortNumber(value) {
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size < 1e-3 || size >= 1e15) return value.toExponential(2).replace(/\.?0+e/, "e").replace("e+", "e");
  const found = PREFIXES.find(([limit]) => size >= limit);
  const [limit, prefix] = found || [1, ""];
  return String(Number((value / limit).toPrecision(4))) + prefix;
}

// A value as a reading: five digits, in percent where the chart is.
function reading(value, unit) {
  if (value === null || value === undefined) return "–";
  if (unit === "%") return `${(100 * value).toFixed(2)}%`;
  const size = Math.abs(value);
  if (value === 0) return "0";
  if (size < 1e-3 || size >= 1e7) return value.toExponential(3).replace("e+", "e");
  return size >= 1e4 ? Math.round(value).toLocaleString("en-US") : String(Number(value.toPrecision(5)));
}
