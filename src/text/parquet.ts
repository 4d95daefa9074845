/**
 * One column of texts of a Parquet file, page by page: memory is bounded by a page and the column's dictionary, not by the row
 * group. Pages are decoded by hyparquet; the walk over them is ours, since hyparquet reads whole column chunks.
 */
import { type FileHandle, open } from "node:fs/promises";
import { brotliDecompressSync, gunzipSync } from "node:zlib";
import {
  type ColumnMetaData,
  type Compressors,
  type FileMetaData,
  parquetMetadataAsync,
  parquetSchema,
  type SchemaTree,
} from "hyparquet";
import { parquetHeader, readPage } from "hyparquet/src/column.js";
import { convert, DEFAULT_PARSERS } from "hyparquet/src/convert.js";
import { compressors as inJavaScript } from "hyparquet-compressors";
import { inputError, ioError, SluiceError } from "../util/errors.ts";
import { formatBytes } from "../util/format.ts";
import { didYouMean } from "../util/names.ts";
import { decodeUtf8, type InvalidUtf8 } from "./utf8.ts";

export interface ParquetText {
  /** From 0. */
  row: number;
  /** Undefined where the column has no value. */
  text: string | undefined;
}

/** First guess at the bytes of a page's header; it is longer where it holds statistics of long texts. */
const headerBytes = 1 << 12;
/** Larger pages are taken for damage. */
const largestPage = 1 << 30;

/** Node's own where it has them: faster, and gzip's checksum is looked at. */
const compressors: Compressors = {
  ...inJavaScript,
  GZIP: (bytes, length) => gunzipSync(bytes, { maxOutputLength: length }),
  BROTLI: (bytes, length) => brotliDecompressSync(bytes, { maxOutputLength: length }),
};

type Decoder = Parameters<typeof readPage>[2];
type Values = Parameters<typeof convert>[0];

/** The texts of `column` in the file's order. Unknown columns and damage are named by file, row group and column. */
export async function* parquetTexts(
  path: string,
  column: string,
  options: { invalid?: InvalidUtf8 } = {},
): AsyncGenerator<ParquetText> {
  const file = await openFile(path);
  try {
    const metadata = await readMetadata(path, file);
    const schemaPath = textColumn(path, metadata, column);
    let row = 0;
    for (const [g, group] of metadata.row_groups.entries()) {
      const place = `${path}: row group ${g + 1} of ${metadata.row_groups.length}, column "${column}"`;
      const meta = group.columns.find((c) => c.meta_data?.path_in_schema.join("\0") === column)?.meta_data;
      if (!meta) throw inputError(`${place}: is encrypted, or in another file`);
      const parsers = {
        ...DEFAULT_PARSERS,
        stringFromBytes: (bytes: Uint8Array) => bytes && decodeUtf8(bytes, place, options),
      };
      const { element } = schemaPath[schemaPath.length - 1];
      const decoder: Decoder = { ...meta, pathInSchema: [column], element, schemaPath, parsers, compressors };
      const end = row + Number(group.num_rows);
      for await (const values of pages(file, meta, decoder, place)) {
        for (let i = 0; i < values.length; i++)
          yield { row: row++, text: (values[i] as string | null) ?? undefined };
      }
      if (row !== end)
        throw inputError(
          `${place}: damaged: it has ${row - end + Number(group.num_rows)} rows, the footer says ${group.num_rows}`,
        );
    }
  } finally {
    await file.close();
  }
}

async function openFile(path: string): Promise<FileHandle> {
  try {
    return await open(path, "r");
  } catch (cause) {
    throw ioError(`read ${path}`, cause);
  }
}

async function readMetadata(path: string, file: FileHandle): Promise<FileMetaData> {
  const { size } = await file.stat();
  try {
    const slice = async (start: number, end = size) => (await readAt(file, start, end - start)).buffer;
    return await parquetMetadataAsync({ byteLength: size, slice });
  } catch (cause) {
    throw inputError(`${path}: no Parquet file, damaged or cut off: ${(cause as Error).message}`, cause);
  }
}

/** The schema from the root to the column, which must be one of texts. */
function textColumn(path: string, metadata: FileMetaData, column: string): SchemaTree[] {
  const root = parquetSchema(metadata);
  const names = root.children.map(({ element }) => element.name);
  const found = root.children.find(({ element }) => element.name === column);
  if (!found) {
    const there = names.length > 12 ? didYouMean(column, names) : `; it has ${names.join(", ")}`;
    throw inputError(`${path} has no column "${column}"${there} (--field names it)`);
  }
  const { type, repetition_type, converted_type, logical_type } = found.element;
  const isText =
    type === "BYTE_ARRAY" &&
    repetition_type !== "REPEATED" &&
    ["UTF8", "ENUM", "JSON", undefined].includes(converted_type) &&
    ["STRING", "ENUM", "JSON", undefined].includes(logical_type?.type);
  if (!isText) {
    const texts = root.children.filter(
      ({ element }) => element.converted_type === "UTF8" || element.logical_type?.type === "STRING",
    );
    throw inputError(
      `${path}: the column "${column}" holds ${type ?? "lists or records"}, no text; columns of text: ${texts.map(({ element }) => element.name).join(", ") || "none"}`,
    );
  }
  // JSON stays as it is written.
  const plain = {
    ...found,
    element: { ...found.element, converted_type: "UTF8" as const, logical_type: undefined },
  };
  return [root, plain];
}

/** The values of each page of a column chunk. */
async function* pages(
  file: FileHandle,
  meta: ColumnMetaData,
  decoder: Decoder,
  place: string,
): AsyncGenerator<Values> {
  const { dictionary_page_offset, data_page_offset, total_compressed_size, num_values, codec } = meta;
  if (codec !== "UNCOMPRESSED" && !compressors[codec])
    throw inputError(`${place}: packed by ${codec}, which cannot be read here`);
  let at = Number(dictionary_page_offset || data_page_offset);
  const end = at + Number(total_compressed_size);
  let dictionary: Values | undefined;
  for (let read = 0; read < Number(num_values) && at < end; ) {
    try {
      const { header, bytes } = await readHeader(file, at, end);
      const size = header.compressed_page_size;
      if (!(size >= 0 && at + bytes + size <= end && header.uncompressed_page_size <= largestPage)) {
        throw new Error(
          `a page of ${formatBytes(size)}, ${formatBytes(header.uncompressed_page_size)} unpacked`,
        );
      }
      const view = await readAt(file, at + bytes, size);
      at += bytes + size;
      if (header.type === "INDEX_PAGE") continue;
      const { data = [] } = readPage({ view, offset: 0 }, header, decoder, dictionary, undefined, 0);
      if (header.type === "DICTIONARY_PAGE") {
        dictionary = convert(data, decoder);
        continue;
      }
      read += data.length;
      yield data;
    } catch (cause) {
      if (cause instanceof SluiceError) throw cause;
      throw inputError(`${place}: damaged at byte ${at}: ${(cause as Error).message}`, cause);
    }
  }
}

/** A page's header and its length, read with more bytes until it is whole. */
async function readHeader(file: FileHandle, at: number, end: number) {
  for (let length = headerBytes; ; length *= 8) {
    const view = await readAt(file, at, Math.min(length, end - at));
    const reader = { view, offset: 0 };
    try {
      return { header: parquetHeader(reader), bytes: reader.offset };
    } catch (cause) {
      if (!(cause instanceof RangeError) || at + length >= end) throw cause;
    }
  }
}

/** Bytes in a buffer of their own. */
async function readAt(file: FileHandle, position: number, length: number): Promise<DataView<ArrayBuffer>> {
  const bytes = new Uint8Array(new ArrayBuffer(Math.max(0, length)));
  for (let done = 0; done < bytes.length; ) {
    const { bytesRead } = await file.read(bytes, done, bytes.length - done, position + done);
    if (bytesRead === 0) throw new Error(`the file ends at byte ${position + done}`);
    done += bytesRead;
  }
  return new DataView(bytes.buffer);
}
