import assert from "node:assert/strict";
import { test } from "node:test";
import { z } from "zod";
import { fieldsOf, parseField, parseNumber, showDefault } from "../../src/cli/flags.ts";
import { trainSchema } from "./harness.ts";

const fields = fieldsOf(trainSchema);
const field = (name: string) => {
  const found = fields.find((f) => f.name === name);
  assert.ok(found);
  return found;
};

test("numbers may carry k, M or G, underscores, exponents and a fraction bar", () => {
  assert.equal(parseNumber("500k"), 500_000);
  assert.equal(parseNumber("2M"), 2_000_000);
  assert.equal(parseNumber("1.1k"), 1100);
  assert.equal(parseNumber("1_000"), 1000);
  assert.equal(parseNumber("3e-4"), 3e-4);
  assert.equal(parseNumber("-.5"), -0.5);
  assert.equal(parseNumber("1/32"), 1 / 32);
});

test("what is no number is no number", () => {
  for (const text of ["", "k", "12x", "0x10", "1e", "NaN", "Infinity", "1 2", "--", "1k5"]) {
    assert.equal(parseNumber(text), undefined, text);
  }
});

test("fields know their kind, flag, default and group", () => {
  assert.deepEqual(
    fields.map((f) => [f.flag, f.kind]),
    [
      ["features", "integer"],
      ["lr", "number"],
      ["batch", "integer"],
      ["arch", "enum"],
      ["hooks", "list"],
      ["layers", "list"],
      ["normalize", "boolean"],
      ["resume", "boolean"],
      ["tokens", "integer"],
      ["out", "string"],
    ],
  );
  assert.equal(field("arch").group, "Model");
  assert.equal(field("out").required, true);
  assert.equal(field("lr").required, false);
  assert.deepEqual(field("arch").choices, ["topk", "relu"]);
});

test("defaults are shown as a person would type them", () => {
  assert.equal(showDefault(field("features")), "4096");
  assert.equal(showDefault(field("tokens")), "500k");
  assert.equal(showDefault(field("hooks")), "blocks.3.hook_resid_post");
  assert.equal(showDefault(field("resume")), undefined);
});

test("lists are separated by commas and their items are checked", () => {
  assert.deepEqual(parseField(field("layers"), "1, 2,3"), [1, 2, 3]);
  assert.throws(() => parseField(field("layers"), "1,b"), /--layers b: a number was expected/);
});

test("a wrong number, a fraction for a whole number and an unknown choice are usage errors", () => {
  assert.throws(() => parseField(field("features"), "many"), { code: "usage", message: /--features many/ });
  assert.throws(() => parseField(field("features"), "1.5"), { code: "usage", message: /whole number/ });
  assert.throws(() => parseField(field("arch"), "topp"), { code: "usage", message: /did you mean topk\?/ });
});

test("a field without a description is refused", () => {
  assert.throws(() => fieldsOf(z.object({ k: z.number() })), /field "k" has no description/);
});
