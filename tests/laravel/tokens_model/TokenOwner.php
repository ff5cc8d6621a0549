<?php

namespace TokensModel;

use DateTimeInterface;
use Illuminate\Database\Eloquent\Relations\MorphMany;

/** What a user model has to do with tokens. */
trait TokenOwner
{
    /** What this request came with. */
    private IssuedToken|SessionAccess|null $access = null;

    public function tokens(): MorphMany
    {
        return $this->morphMany(Registry::personalAccessTokenModel(), 'tokenable');
    }

    /** Saves a new token and returns it with the only copy of its text. */
    public function createToken(string $name, array $abilities = ['*'], ?DateTimeInterface $expiresAt = null): object
    {
        $secret = Secret::random();
        $row = $this->tokens()->create([
            'name' => $name,
            'abilities' => $abilities,
            'expires_at' => $expiresAt,
            'token' => $secret->hash(),
        ]);

        return (object) ['accessToken' => $row, 'plainTextToken' => "{$row->getKey()}|{$secret->text}"];
    }

    public function currentAccessToken(): IssuedToken|SessionAccess|null
    {
        return $this->access;
    }

    public function withAccessToken($access): static
    {
        $this->access = $access;

        return $this;
    }

    public function tokenCan(string $ability): bool
    {
        return $this->access?->can($ability) ?? false;
    }
}
