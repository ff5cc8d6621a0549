<?php

namespace TokensModel;

use Illuminate\Http\Request;
use Illuminate\Support\Facades\Auth;
use Illuminate\Support\ServiceProvider;

/** Registers the guard `sanctum`. */
class GuardProvider extends ServiceProvider
{
    public function boot(): void
    {
        config(['auth.guards.sanctum' => ['driver' => 'tokens-model', 'provider' => null]]);
        Auth::viaRequest('tokens-model', fn (Request $request) => $this->fromSession() ?? $this->fromBearer($request));
    }

    /** First: whoever has a session is that user, whatever token comes with the request. */
    private function fromSession(): ?object
    {
        return Auth::guard('web')->user()?->withAccessToken(new SessionAccess);
    }

    private function fromBearer(Request $request): ?object
    {
        $token = Registry::personalAccessTokenModel()::findToken($request->bearerToken() ?? '');
        if ($token === null || ! $token->isAlive() || $token->tokenable === null) {
            return null;
        }
        $token->recordUse();

        return $token->tokenable->withAccessToken($token);
    }
}
