// What differs between two texts, word by word.

const LONGEST_DIFF = 1500; // words a side: more would freeze the page

// Words of a text, with the spaces after them; scripts without spaces by the browser's dictionary.
function words(text) {
  if (typeof Intl.Segmenter === "function") {
    return Array.from(new Intl.Segmenter(undefined, { granularity: "word" }).segment(text), (s) => s.segment);
  }
  return text.match(/\s+|[^\s]+/gu) || [];
}

// Both texts as nodes, what the other one lacks in <mark> (longest common subsequence of words).
function differences(left, right) {
  const a = words(left), b = words(right);
  let start = 0, end = 0;
  while (start < a.length && start < b.length && a[start] === b[start]) start++;
  while (end < Math.min(a.length, b.length) - start && a[a.length - 1 - end] === b[b.length - 1 - end]) end++;
  const x = a.slice(start, a.length - end), y = b.slice(start, b.length - end);
  if (x.length > LONGEST_DIFF || y.length > LONGEST_DIFF) return [[left], [right]];
  const width = y.length + 1;
  const table = new Uint16Array((x.length + 1) * width);
  for (let i = x.length - 1; i >= 0; i--) {
    for (let j = y.length - 1; j >= 0; j--) {
      table[i * width + j] = x[i] === y[j] ? table[(i + 1) * width + j + 1] + 1
        : Math.max(table[(i + 1) * width + j], table[i * width + j + 1]);
    }
  }
  const keptX = new Array(x.length).fill(false), keptY = new Array(y.length).fill(false);
  for (let i = 0, j = 0; i < x.length && j < y.length;) {
    if (x[i] === y[j]) { keptX[i++] = true; keptY[j++] = true; }
    else if (table[(i + 1) * width + j] >= table[i * width + j + 1]) i++;
    else j++;
  }
  const nodes = (all, middle, kept) => {
    const same = (i) => i < start || i >= all.length - end || kept[i - start];
    const pieces = [];
    for (let i = 0; i < all.length;) {
      const first = i, common = same(i);
      while (i < all.length && (same(i) === common || (!common && /^\s+$/u.test(all[i]) && i + 1 < all.length && !same(i + 1)))) i++;
      const piece = all.slice(first, i).join("");
      pieces.push(common ? piece : make("mark", {}, piece));
    }
    return pieces;
  };
  return [nodes(a, x, keptX), nodes(b, y, keptY)];
}
