<?php

namespace TokensModel;

use Carbon\Carbon;
use Illuminate\Database\Eloquent\Model;
use Illuminate\Database\Eloquent\Relations\MorphTo;

/** A row of `personal_access_tokens`. */
class IssuedToken extends Model
{
    protected $table = 'personal_access_tokens';

    protected $guarded = ['id'];

    protected $hidden = ['token'];

    protected $casts = ['abilities' => 'json', 'expires_at' => 'datetime', 'last_used_at' => 'datetime'];

    public function tokenable(): MorphTo
    {
        return $this->morphTo();
    }

    /** The token that a client sent, if there is one. The database compares ids, so that `07` finds 7. */
    public static function findToken($sent): ?static
    {
        [$id, $secret] = Secret::fromClient($sent);
        $row = $id === null
            ? static::query()->firstWhere('token', $secret->hash())
            : static::query()->find($id);

        return $row !== null && hash_equals($row->token, $secret->hash()) ? $row : null;
    }

    /** Whether neither its own end nor that of all tokens, `sanctum.expiration` minutes after their creation, has come. */
    public function isAlive(): bool
    {
        $ends = [$this->expires_at];
        if ($minutes = (int) config('sanctum.expiration')) {
            $ends[] = $this->created_at->copy()->addMinutes($minutes);
        }

        return collect($ends)->filter()->every(fn (Carbon $end) => $end->isFuture());
    }

    public function recordUse(): void
    {
        $this->last_used_at = Carbon::now();
        $this->save();
    }

    /** The column is nullable: null allows nothing. */
    public function can($ability): bool
    {
        return array_intersect(['*', $ability], $this->abilities ?? []) !== [];
    }
}
