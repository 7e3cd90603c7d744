import { cli } from "./cli";
import { common } from "./common";
import { password } from "./password";
import { setUp } from "./setUp";
import { shell } from "./shell";
import { signIn } from "./signIn";

export const en = { cli, common, password, setUp, shell, signIn };
