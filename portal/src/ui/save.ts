/** Has the browser keep what is at an address. */
export function saveUrl(url: string, name: string) {
	const a = document.createElement("a");
	a.href = url;
	a.download = name;
	a.click();
}

/** Gives a file to the reader. */
export function saveFile(name: string, parts: BlobPart[], type: string) {
	const url = URL.createObjectURL(new Blob(parts, { type }));
	saveUrl(url, name);
	setTimeout(() => URL.revokeObjectURL(url), 60_000);
}
