import { account } from "./account";
import { audit } from "./audit";
import { cli } from "./cli";
import { common } from "./common";
import { device } from "./device";
import { devices } from "./devices";
import { docs } from "./docs";
import { events } from "./events";
import { groups } from "./groups";
import { password } from "./password";
import { profile } from "./profile";
import { rights, roles } from "./rights";
import { sessions } from "./sessions";
import { setUp } from "./setUp";
import { shell } from "./shell";
import { signIn } from "./signIn";
import { signUp } from "./signUp";
import { terminal } from "./terminal";
import { tokens } from "./tokens";

export const en = {
	account,
	audit,
	cli,
	common,
	device,
	devices,
	docs,
	events,
	groups,
	password,
	profile,
	rights,
	roles,
	sessions,
	setUp,
	shell,
	signIn,
	signUp,
	terminal,
	tokens,
};
