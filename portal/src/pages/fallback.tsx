import { Button, Stack, Text, Title } from "@mantine/core";
import { Link } from "@tanstack/react-router";
import { ApiError } from "../api/client";
import { t } from "../strings";
import { Lone } from "../ui/lone";
import { useTitle } from "../ui/page";
import { Problem } from "../ui/problem";

export function NotFoundPage() {
	useTitle(t.shell.notFound.title);
	return (
		<Lone>
			<Stack gap="md">
				<Title order={1}>{t.shell.notFound.title}</Title>
				<Text c="dimmed">{t.shell.notFound.text}</Text>
				<Button component={Link} to="/devices">
					{t.shell.notFound.home}
				</Button>
			</Stack>
		</Lone>
	);
}

export function CrashedPage({ error }: { error: unknown }) {
	useTitle(t.shell.crashed.title);
	return (
		<Lone>
			<Stack gap="md">
				{!(error instanceof ApiError) && (
					<>
						<Title order={1}>{t.shell.crashed.title}</Title>
						<Text c="dimmed">{t.shell.crashed.text}</Text>
					</>
				)}
				<Problem error={error} />
				<Button variant="default" onClick={() => location.reload()}>
					{t.common.reload}
				</Button>
			</Stack>
		</Lone>
	);
}
