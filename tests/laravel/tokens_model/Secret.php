<?php

namespace TokensModel;

use Illuminate\Support\Str;

/** The part of a token that is compared: the database has only its SHA-256. */
final class Secret
{
    private function __construct(public readonly string $text)
    {
    }

    /** A new one: a prefix, 40 random characters, and their CRC-32 in hex. */
    public static function random(): self
    {
        $entropy = Str::random(40);

        return new self(config('sanctum.token_prefix', '').$entropy.hash('crc32b', $entropy));
    }

    /**
     * The id and the secret of a token as a client sends it. The first `|` separates them; a token without one is all
     * secret.
     */
    public static function fromClient(string $token): array
    {
        $bar = strpos($token, '|');

        return $bar === false
            ? [null, new self($token)]
            : [substr($token, 0, $bar), new self(substr($token, $bar + 1))];
    }

    public function hash(): string
    {
        return hash('sha256', $this->text);
    }
}
