/** What each right of the API lets one do. The keys are the gateway's (socketxp.Rights). */
export const rights = {
	"account:read": "See the account",
	"devices:read": "See devices and groups",
	"devices:write": "Change, disable and delete devices and groups",
	"tokens:read": "See tokens, without their text",
	"tokens:write": "Make registration and access tokens, revoke any",
	"tokens:admin": "Make API and basic tokens",
	"sessions:read": "See sessions",
	"sessions:write": "End sessions",
	"events:read": "See events",
	"audit:read": "See, verify and export the audit",
} as const;

export const roles: Record<string, { name: string; may: string }> = {
	owner: { name: "Owner", may: "may do everything in this account" },
};
