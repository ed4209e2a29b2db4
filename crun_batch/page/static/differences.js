// What differs between two texts, word by word: the longest common run of words is what does not.

const MOST_CELLS = 4_000_000;

function words(text) {
  return text.match(/[\p{L}\p{N}]+|\s+|[^\p{L}\p{N}\s]/gu) ?? [];
}

// The words of `text` with whether each of them is missing in `other`.
export function marked(text, other) {
  const mine = words(text);
  const theirs = words(other);
  let start = 0;
  while (start < mine.length && start < theirs.length && mine[start] === theirs[start]) start += 1;
  let end = 0;
  while (end < mine.length - start && end < theirs.length - start
    && mine[mine.length - 1 - end] === theirs[theirs.length - 1 - end]) end += 1;
  const changed = within(mine.slice(start, mine.length - end), theirs.slice(start, theirs.length - end));
  return mine.map((word, place) => {
    const isInside = place >= start && place < mine.length - end;
    return { word, differs: isInside && changed[place - start] && word.trim() !== "" };
  });
}

// For texts too long to compare word by word, all of the middle differs.
function within(mine, theirs) {
  if (mine.length * theirs.length > MOST_CELLS) return mine.map(() => true);
  const width = theirs.length + 1;
  const longest = new Uint32Array((mine.length + 1) * width);
  for (let i = mine.length - 1; i >= 0; i -= 1) {
    for (let j = theirs.length - 1; j >= 0; j -= 1) {
      longest[i * width + j] = mine[i] === theirs[j] ? longest[(i + 1) * width + j + 1] + 1
        : Math.max(longest[(i + 1) * width + j], longest[i * width + j + 1]);
    }
  }
  const differs = mine.map(() => true);
  for (let i = 0, j = 0; i < mine.length && j < theirs.length;) {
    if (mine[i] === theirs[j]) { differs[i] = false; i += 1; j += 1; }
    else if (longest[(i + 1) * width + j] >= longest[i * width + j + 1]) i += 1;
    else j += 1;
  }
  return differs;
}
