// Word by word: what two texts don't share. The longest common subsequence (Wagner and Fischer 1974) of words, runs of
// space and single signs; scripts that put no space between words are compared letter by letter.

const WORDS = /\s+|[\p{sc=Han}\p{sc=Hiragana}\p{sc=Katakana}\p{sc=Thai}\p{sc=Lao}\p{sc=Khmer}]\p{M}*|[\p{L}\p{M}\p{N}_]+|./gsu;
const MOST_CELLS = 1_500_000;

// [["same" | "gone" | "come", text], …]: "gone" is in `before` alone, "come" in `after` alone.
// null: too long to be compared word by word.
function difference(before, after) {
  const a = before.match(WORDS) || [], b = after.match(WORDS) || [];
  let start = 0, endA = a.length, endB = b.length;
  while (start < endA && start < endB && a[start] === b[start]) start++;
  while (endA > start && endB > start && a[endA - 1] === b[endB - 1]) { endA--; endB--; }
  const rows = endA - start, columns = endB - start;
  if (rows * columns > MOST_CELLS) return null;
  const wide = columns + 1, lengths = new Uint16Array((rows + 1) * wide);
  for (let i = rows - 1; i >= 0; i--) {
    for (let j = columns - 1; j >= 0; j--) {
      lengths[i * wide + j] = a[start + i] === b[start + j]
        ? lengths[(i + 1) * wide + j + 1] + 1
        : Math.max(lengths[(i + 1) * wide + j], lengths[i * wide + j + 1]);
    }
  }
  const parts = [];
  const add = (kind, text) => {
    const last = parts[parts.length - 1];
    if (last && last[0] === kind) last[1] += text;
    else if (text) parts.push([kind, text]);
  };
  add("same", a.slice(0, start).join(""));
  let i = 0, j = 0;
  while (i < rows && j < columns) {
    if (a[start + i] === b[start + j]) { add("same", a[start + i]); i++; j++; }
    else if (lengths[(i + 1) * wide + j] >= lengths[i * wide + j + 1]) add("gone", a[start + i++]);
    else add("come", b[start + j++]);
  }
  add("gone", a.slice(start + i, endA).join(""));
  add("come", b.slice(start + j, endB).join(""));
  add("same", a.slice(endA).join(""));
  return joined(parts);
}

// A sign or two that stay between changes say nothing: they go and come with their neighbours.
function joined(parts) {
  const found = [];
  let gone = "", come = "";
  const flush = () => {
    if (gone) found.push(["gone", gone]);
    if (come) found.push(["come", come]);
    gone = come = "";
  };
  parts.forEach(([kind, text], i) => {
    if (kind === "gone") gone += text;
    else if (kind === "come") come += text;
    else if (i > 0 && i < parts.length - 1 && text.length <= 3 && !/[\p{L}\p{N}]/u.test(text)) { gone += text; come += text; }
    else { flush(); found.push([kind, text]); }
  });
  flush();
  return found;
}
