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
  const write = (change) => {
    const transaction = database.transaction(TABLE, "readwrite");
    const request = change(transaction.objectStore(TABLE));
    // Committing without waiting for the answer lets a write survive the page it came from.
    transaction.commit();
    return finished(request);
  };
  return {
    all: () => finished(database.transaction(TABLE).objectStore(TABLE).getAll()),
    put: (record) => write((table) => table.put(record)),
    remove: (id) => write((table) => table.delete(id)),
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
