import { Modal, Stack, Text } from "@mantine/core";
import { useQuery } from "@tanstack/react-query";
import { useEffect, useState } from "react";
import { ApiError, onSignedOut } from "../api/client";
import { meQuery, queryClient } from "../api/queries";
import { SignInForm } from "../pages/signIn";
import { t } from "../strings";
import { Problem } from "./problem";

/**
 * Stands over the page when the sign-in has ended meanwhile, and lets the same
 * person sign in again where they were: nothing that was typed is lost.
 */
export function SessionGate() {
	const me = useQuery(meQuery);
	const [ended, setEnded] = useState(false);
	const [other, setOther] = useState(false);
	useEffect(() => onSignedOut(() => setEnded(true)), []);
	useEffect(() => {
		if (me.error instanceof ApiError && me.error.status === 401) setEnded(true);
	}, [me.error]);
	const who = me.data;
	return (
		<Modal
			opened={ended}
			onClose={() => {}}
			withCloseButton={false}
			closeOnClickOutside={false}
			closeOnEscape={false}
			title={<Text fw={600}>{t.signIn.endedTitle}</Text>}
			zIndex={500}
		>
			<Stack gap="md">
				<Text size="sm">{t.signIn.ended(who?.user.email ?? "")}</Text>
				{other && <Problem error={new Error(t.signIn.otherUser)} />}
				<SignInForm
					{...(who ? { email: who.user.email } : {})}
					onDone={(now) => {
						if (who && now.user.id !== who.user.id) {
							setOther(true);
							return;
						}
						setEnded(false);
						queryClient.setQueryData(meQuery.queryKey, now);
						void queryClient.invalidateQueries();
					}}
				/>
			</Stack>
		</Modal>
	);
}
