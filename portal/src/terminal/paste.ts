/**
 * The most that is pasted, in UTF-16 units: 768 KiB of UTF-8 at the most, of the
 * 1 MiB that the gateway holds for a program that does not read.
 */
export const maxPaste = 256 << 10;

/** Text of more than so many characters is looked at first, like text of more than one line. */
const manyChars = 5000;

/**
 * What may be pasted of a text: no control characters but tabs and ends of lines, as an
 * escape sequence could end the bracketed paste of a shell and type on by itself.
 */
export const plain = (text: string) => text.replace(/\r\n?/g, "\n").replace(/(?![\t\n])\p{Cc}/gu, "");

/** Whether somebody should look at a plain text before it is pasted: each end of a line may run a command. */
export const needsLook = (text: string) => text.includes("\n") || text.length > manyChars;

/** How many lines a plain text has; an end of line at its end begins no further one. */
export const linesOf = (text: string) => text.replace(/\n$/, "").split("\n").length;
