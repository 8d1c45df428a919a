/** Server-sent events read from a fetch body, whatever the way its bytes were cut. */

/**
 * Yields the data of each event.
 *
 * Lines may end in LF, CRLF or CR; an event's data lines are joined with LF; comments and
 * other fields are skipped. An event that the stream cuts off before its blank line is dropped.
 *
 * @param {ReadableStream<Uint8Array>} stream
 * @returns {AsyncGenerator<string>}
 */
export async function* readEvents(stream) {
  const reader = stream.pipeThrough(new TextDecoderStream()).getReader();
  const split = createLineSplitter();
  let data = [];
  try {
    for (;;) {
      const { done, value } = await reader.read();
      if (done) return;
      for (const line of split(value)) {
        if (line === "") {
          if (data.length) yield data.join("\n");
          data = [];
        } else if (line.startsWith("data:")) {
          data.push(line.slice(line[5] === " " ? 6 : 5));
        }
      }
    }
  } finally {
    reader.cancel().catch(() => {});
  }
}

/**
 * Makes a function that takes pieces of text and returns the lines they complete.
 *
 * A CR at the end of a piece ends its line at once; an LF that opens the next piece belongs to it.
 */
export function createLineSplitter() {
  let rest = "";
  let endedWithCr = false;
  return (piece) => {
    if (endedWithCr && piece.startsWith("\n")) piece = piece.slice(1);
    else if (piece === "") return [];
    endedWithCr = piece.endsWith("\r");
    const lines = (rest + piece).split(/\r\n|\r|\n/);
    rest = lines.pop();
    return lines;
  };
}
