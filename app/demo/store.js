// The pictures that this browser keeps, in IndexedDB. They are never sent anywhere.
//
// A record: {id, created (ms), prompt, seed, index, settings: {temperature?, top_k?, top_p?, guidance?}, rows, png: Blob,
// base?: Blob, keep?, revised?: the text that was painted, if it is another, style?: where the model has several,
// model?: where the server has several}: all that is needed to ask for the same picture again. Every function throws where
// the browser refuses storage.

const opened = () => new Promise((resolve, reject) => {
  const request = indexedDB.open("dalle-server", 1);
  request.onupgradeneeded = () => request.result.createObjectStore("pictures", { keyPath: "id", autoIncrement: true });
  request.onsuccess = () => resolve(request.result);
  request.onerror = () => reject(request.error);
});
let database = null;

async function transact(mode, act) {
  database ??= opened();
  const transaction = (await database).transaction("pictures", mode);
  const request = act(transaction.objectStore("pictures"));
  return new Promise((resolve, reject) => {
    transaction.oncomplete = () => resolve(request.result);
    transaction.onerror = transaction.onabort = () => reject(transaction.error || request.error);
  });
}

// All records, the newest first.
export const all = async () => (await transact("readonly", (pictures) => pictures.getAll())).reverse();
// Keeps a record, and returns its id.
export const put = (record) => transact("readwrite", (pictures) => pictures.put(record));
export const remove = (id) => transact("readwrite", (pictures) => pictures.delete(id));
export const clear = () => transact("readwrite", (pictures) => pictures.clear());
