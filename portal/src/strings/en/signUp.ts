export const signUp = {
	title: "Sign up",
	lead: "for an account of your own, with devices of its own",
	submit: "Make the account",
	done: "The account is yours. You are signed in.",
	have: "You have an account?",
	signIn: "Sign in",
	// The gateway does not say whether an address has an account, to anybody.
	taken: "That did not sign you in",
	takenHint:
		"If this email address has an account here, it was left as it is: sign in with its own password. Otherwise look at the address again.",
	off: {
		title: "Nobody can sign up here",
		text: "This gateway's operator makes the accounts. Ask the operator for one, or sign in if you have one.",
	},
} as const;
