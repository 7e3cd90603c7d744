import { en } from "./en";

/**
 * All words that people read, by page. Another language is another object of the
 * same shape; nothing else in the portal has text of its own.
 */
export const t = en;
