/**
 * Brown corpus (Francis and Kucera 1964, 1979): `word/tag` tokens, turned back into running text.
 */
import { join } from "node:path";
import type { Document } from "../types.ts";
import { onlyRoot, type Roots, readText } from "./files.ts";

/** One document per text of about 2,000 words; `meta.genre` is one of 15. */
export async function* readBrown(roots: Roots): AsyncGenerator<Document> {
  const folder = onlyRoot(roots);
  const categories = (await readText(join(folder, "cats.txt"))).trim().split("\n");
  for (const line of categories) {
    const [id, genre] = line.trim().split(/\s+/);
    const text = detokenise(await readText(join(folder, id), "replace"));
    yield { id, text, meta: { genre } };
  }
}

/** Text of tagged lines: tags off, punctuation attached, quotation marks joined, one line per paragraph. */
export function detokenise(tagged: string): string {
  const paragraphs = tagged.split(/\n\s*\n/).map((paragraph) => {
    const words = paragraph.split(/\s+/).filter((word) => word !== "");
    return joinWords(
      words.map((word) => word.slice(0, word.lastIndexOf("/") < 1 ? word.length : word.lastIndexOf("/"))),
    );
  });
  return paragraphs.filter((paragraph) => paragraph !== "").join("\n\n");
}

const attachesLeft = /^(?:[.,;:!?)\]}%]+|''|'|\.\.\.)$/;
const attachesRight = /^(?:``|`|[([{$])$/;

function joinWords(words: readonly string[]): string {
  let text = "";
  let glue = true;
  let previous = "";
  for (const word of words) {
    if (word === previous && /^[;:?!]$/.test(word)) continue; // the corpus doubles these marks
    const shown = word === "``" || word === "''" ? '"' : word === "`" ? "'" : word;
    if (!glue && !attachesLeft.test(word)) text += " ";
    text += shown;
    glue = attachesRight.test(word);
    previous = word;
  }
  return text;
}
