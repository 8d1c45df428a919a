/** Conversations kept in the browser's IndexedDB, one record each. */

const NAME = "yearling";
const TABLE = "conversations";

/**
 * Opens the database.
 *
 * Where the browser forbids one (some private windows), the returned object keeps nothing:
 * the page works and forgets.
 *
 * @returns {Promise<{all: () => Promise<object[]>, put: (record: object) => Promise<void>,
 *   remove: (id: string) => Promise<void>, isLasting: boolean}>}
 */
export async function openDatabase() {
  let database;
  try {
    database = await open();
  } catch {
    return { all: async () => [], put: async () => {}, remove: async () => {}, isLasting: false };
  }
  const run = (mode, work) => finished(work(database.transaction(TABLE, mode).objectStore(TABLE)));
  return {
    all: () => run("readonly", (table) => table.getAll()),
    put: (record) => run("readwrite", (table) => table.put(record)),
    remove: (id) => run("readwrite", (table) => table.delete(id)),
    isLasting: true,
  };
}

function open() {
  const request = indexedDB.open(NAME, 1);
  request.onupgradeneeded = () => request.result.createObjectStore(TABLE, { keyPath: "id" });
  return finished(request);
}

function finished(request) {
  return new Promise((resolve, reject) => {
    request.onsuccess = () => resolve(request.result);
    request.onerror = () => reject(request.error);
  });
}
