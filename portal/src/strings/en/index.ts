import { common } from "./common";
import { shell } from "./shell";
import { signIn } from "./signIn";

export const en = { common, shell, signIn };
