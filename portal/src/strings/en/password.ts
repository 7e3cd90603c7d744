export const password = {
	show: "Show or hide the password",
	rule: "12 characters or more; a few unrelated words are good.",
	more: (n: number) => `${n} more ${n === 1 ? "character" : "characters"} needed.`,
	enough: "Long enough, if it is used nowhere else.",
	long: "Long. Used nowhere else, nobody guesses it.",
	repeats: "Long enough, but the same few characters are easy to guess.",
	tooShort: "The password is too short.",
	tooLong: "The password is too long: use at most 256 bytes.",
	isEmail: "Choose one that can't be guessed from your email address.",
} as const;
