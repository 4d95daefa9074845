/**
 * Labelled sets: what a mail says, and the sets whose packages are among the development dependencies.
 */
import assert from "node:assert/strict";
import { test } from "node:test";
import { labelledDocuments, labelledSet } from "../../src/text/index.ts";
import { mailText } from "../../src/text/labelled.ts";

test("a mail is what stands below its headers, without markup", () => {
  assert.equal(
    mailText("From: a\r\nSubject: spam!\r\n\r\nHello,\r\n\r\n  come  here.\r\n"),
    "Hello,\n\ncome here.",
  );
  assert.equal(
    mailText(
      "Content-Type: text/html\n\n<html><head><title>x</title></head><body><p>Buy &amp; win</p></body></html>",
    ),
    "Buy & win",
  );
  assert.equal(mailText("Content-Transfer-Encoding: base64\n\nSGVsbG8="), "");
});

test("an unknown set is answered with those there are", () => {
  assert.throws(() => labelledSet("sentimnt"), /"sentimnt" \(there are spam, .*\).*sentiment/);
});

test("mails have both labels and no headers", async () => {
  const count = { ham: 0, spam: 0 };
  for await (const { text, label } of labelledDocuments("spam")) {
    count[label as keyof typeof count]++;
    if (count.ham + count.spam === 1) assert.doesNotMatch(text, /^(Received|Return-Path):/m);
  }
  assert.ok(count.ham > 4000 && count.ham <= 4150, `${count.ham} ham`);
  assert.ok(count.spam > 1500 && count.spam <= 1896, `${count.spam} spam`);
});

test("genres are the five largest of the Brown corpus, each document its own group", async () => {
  const groups = new Set<string>();
  const counts = new Map<string, number>();
  for await (const { group, label } of labelledDocuments("brown-genres")) {
    groups.add(group);
    counts.set(label, (counts.get(label) ?? 0) + 1);
  }
  assert.equal(groups.size, 283);
  assert.deepEqual(Object.fromEntries([...counts].sort()), {
    belles_lettres: 75,
    hobbies: 36,
    learned: 80,
    lore: 48,
    news: 44,
  });
});
